#include "threads.h"

#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#define GJ_PAUSE() _mm_pause()
#elif defined(__aarch64__)
#define GJ_PAUSE() asm volatile("yield")
#else
#define GJ_PAUSE() ((void)0)
#endif

namespace gguf_jax {
namespace {

// XLA runs with subnormal numbers flushed to zero; ggml's types know subnormal scales, so kernels keep them.
class KeepSubnormals {
  public:
#if defined(__x86_64__)
    KeepSubnormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ & ~0x8040u); }
    ~KeepSubnormals() { _mm_setcsr(saved_); }

  private:
    unsigned saved_;
#elif defined(__aarch64__)
    KeepSubnormals() {
        asm volatile("mrs %0, fpcr" : "=r"(saved_));
        asm volatile("msr fpcr, %0" : : "r"(saved_ & ~(uint64_t(1) << 24)));
    }
    ~KeepSubnormals() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

  private:
    uint64_t saved_;
#endif
};

// How often a helper looks for work before it sleeps: some hundred microseconds, longer than what lies between two
// kernels of a token, shorter than what a user would notice on a meter.
constexpr int SPINS = 8192;

class Pool {
  public:
    static Pool& get() {
        // never destroyed: helpers may run while the process exits
        static Pool* pool = new Pool;
        return *pool;
    }

    int size() const { return size_.load(std::memory_order_relaxed); }

    void resize(int n) {
        std::lock_guard<std::mutex> turn(turn_);
        size_ = std::max(1, n);
    }

    void run(int64_t count, Task task) {
        const KeepSubnormals keep;
        int n = static_cast<int>(std::min<int64_t>(size(), count));
        if (n <= 1) {
            for (int64_t i = 0; i < count; ++i) task(i, 0);
            return;
        }
        std::lock_guard<std::mutex> turn(turn_);
        while (static_cast<int>(helpers_.size()) < n - 1) {
            int id = static_cast<int>(helpers_.size()) + 1;
            uint64_t seen = epoch_.load();
            helpers_.emplace_back([this, id, seen] { help(id, seen); });
            helpers_.back().detach();
        }
        task_ = &task;
        count_ = count;
        wanted_ = n;
        next_.store(0, std::memory_order_relaxed);
        working_.store(static_cast<int>(helpers_.size()), std::memory_order_relaxed);
        {
            std::lock_guard<std::mutex> lock(sleep_);
            epoch_.fetch_add(1, std::memory_order_release);
        }
        if (sleepers_.load() > 0) wake_.notify_all();
        work(0);
        for (int spins = 0; working_.load(std::memory_order_acquire) > 0; ++spins) {
            if (spins < SPINS) GJ_PAUSE();
            else sched_yield();  // a busy machine: the helper may be waiting for this very core
        }
    }

  private:
    Pool() {
        cpu_set_t set;
        int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
        size_ = std::max(1, n);
    }

    void work(int thread) {
        for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) (*task_)(i, thread);
    }

    void help(int id, uint64_t seen) {
        const KeepSubnormals keep;
        for (;;) {
            int spins = 0;
            while (epoch_.load(std::memory_order_acquire) == seen) {
                if (++spins < SPINS) {
                    GJ_PAUSE();
                    continue;
                }
                std::unique_lock<std::mutex> lock(sleep_);
                sleepers_.fetch_add(1);
                wake_.wait(lock, [&] { return epoch_.load() != seen; });
                sleepers_.fetch_sub(1);
            }
            ++seen;
            if (id < wanted_) work(id);
            working_.fetch_sub(1, std::memory_order_release);
        }
    }

    std::mutex turn_, sleep_;
    std::condition_variable wake_;
    std::vector<std::thread> helpers_;
    std::atomic<int> size_{1}, working_{0}, sleepers_{0};
    std::atomic<uint64_t> epoch_{0};
    std::atomic<int64_t> next_{0};
    const Task* task_ = nullptr;
    int64_t count_ = 0;
    int wanted_ = 0;
};

struct Arena {
    void* memory[4] = {};
    size_t bytes[4] = {};
    ~Arena() {
        for (void* m : memory) std::free(m);
    }
};
thread_local Arena arena;

}  // namespace

int thread_count() { return Pool::get().size(); }
void set_thread_count(int n) { Pool::get().resize(n); }
void parallel(int64_t count, Task task) { Pool::get().run(count, task); }

void* scratch(int slot, size_t bytes) {
    if (arena.bytes[slot] < bytes) {
        // what kernels stream through wants large pages: small ones end a hardware prefetch every 4 KiB
        constexpr size_t HUGE_PAGE = 2 << 20;
        const size_t page = bytes < HUGE_PAGE / 2 ? 4096 : HUGE_PAGE;
        const size_t rounded = (bytes + page - 1) / page * page;
        std::free(arena.memory[slot]);
        arena.memory[slot] = std::aligned_alloc(page, rounded);
#ifdef MADV_HUGEPAGE
        if (page == HUGE_PAGE && arena.memory[slot]) madvise(arena.memory[slot], rounded, MADV_HUGEPAGE);
#endif
        arena.bytes[slot] = arena.memory[slot] ? rounded : 0;
        if (!arena.memory[slot]) throw std::bad_alloc();
    }
    return arena.memory[slot];
}

}  // namespace gguf_jax
