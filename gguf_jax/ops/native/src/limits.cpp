#include "limits.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "api.h"
#include "levels.h"
#include "threads.h"

namespace {

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Where results go that nobody wants.
std::atomic<float> sink;

}  // namespace

// Bytes a second that all threads together read of `bytes` bytes of memory: the best of the passes that fit in
// `seconds`. 0 if there is not that much memory.
GGUF_JAX_API double gguf_jax_read_bandwidth(double bytes, double seconds) {
    constexpr size_t PIECE = 1 << 20;
    int64_t pieces = std::max<int64_t>(1, int64_t(bytes / PIECE));
    size_t size = size_t(pieces) * PIECE;
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 0;
#ifdef MADV_HUGEPAGE
    madvise(memory, size, MADV_HUGEPAGE);
#endif
    auto* base = static_cast<uint8_t*>(memory);
    // Written once: pages that never were are all the same zeros. By the threads that will read, for the sake of NUMA.
    auto fill = [&](int64_t i, int) { std::memset(base + size_t(i) * PIECE, 1, PIECE); };
    gguf_jax::parallel(pieces, fill);
    auto* kernels = gguf_jax::level().limits;
    auto read = [&](int64_t i, int) {
        sink.store(kernels->read(base + size_t(i) * PIECE, PIECE), std::memory_order_relaxed);
    };
    double best = 0, end = now() + seconds;
    do {
        double start = now();
        gguf_jax::parallel(pieces, read);
        best = std::max(best, double(size) / (now() - start));
    } while (now() < end);
    munmap(memory, size);
    return best;
}

// Operations a second that all threads together do of `kind` (see limits.h) in about `seconds`; 0 if the level in use
// has no such thing.
GGUF_JAX_API double gguf_jax_peak(const char* kind, double seconds) {
    const auto* peak = gguf_jax::level().limits->peaks;
    while (peak->kind && std::strcmp(peak->kind, kind) != 0) ++peak;
    if (!peak->kind) return 0;
    int threads = gguf_jax::thread_count();
    int64_t iterations = 1000;
    auto run = [&](int64_t, int) { sink.store(peak->run(iterations), std::memory_order_relaxed); };
    const double begin = now();
    double best = 0;
    for (int passes = 1;; ++passes) {
        const double start = now();
        gguf_jax::parallel(threads, run);
        const double end = now(), spent = end - start;
        best = std::max(best, peak->operations * double(iterations) * threads / spent);
        // one pass alone may have been interrupted
        if (passes >= 5 && end - begin > seconds) return best;
        if (spent * 8 < seconds) iterations *= 4;
    }
}
