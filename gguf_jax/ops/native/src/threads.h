// The threads that kernels run on: the caller and its helpers, which spin for a moment before they sleep.
//
// XLA's own pool costs tens of microseconds to hand work to, a token of a model has over a hundred such hand-offs.
#pragma once
#include <cstddef>
#include <cstdint>

namespace gguf_jax {

// A callable by reference: no allocation.
class Task {
  public:
    template <class F> Task(F& f) : object_(&f), call_([](void* o, int64_t i, int t) { (*static_cast<F*>(o))(i, t); }) {}
    void operator()(int64_t index, int thread) const { call_(object_, index, thread); }

  private:
    void* object_;
    void (*call_)(void*, int64_t, int);
};

int thread_count();
void set_thread_count(int n);

// Run task(i, thread) for every i in [0, count), each once, in any order, on up to thread_count() threads;
// `thread` is in [0, thread_count()). Returns when all are done. Calls from several threads take turns.
void parallel(int64_t count, Task task);

// Memory of this thread, aligned to 64 bytes, at least `bytes` long, contents undefined; valid until the thread asks
// again with the same slot.
enum Slot : int {
    OF_CALLER,  // what a call holds for all of its tasks
    OF_KERNEL,
    OF_RESULT,
    OF_PANEL,   // rows that are packed or unpacked on the way
};
void* scratch(int slot, size_t bytes);

}  // namespace gguf_jax
