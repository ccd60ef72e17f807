// Which level to use: what this CPU has, and what GGUF_JAX_NATIVE_LEVEL says.
#include <cstdlib>
#include <cstring>
#include <string>

#include "api.h"
#include "levels.h"
#include "threads.h"
#include "xla/ffi/api/c_api.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace gguf_jax {
namespace {

// The names of what a level may need, of those that this CPU has and this system lets a program use.
class Features {
  public:
    Features() {
#if defined(__x86_64__)
        unsigned a = 0, b = 0, c = 0, d = 0;
        if (!__get_cpuid(1, &a, &b, &c, &d)) return;
        // The registers that the system saves when it switches threads; without it an instruction is no use.
        unsigned saved = 0;
        if (c >> 27 & 1) {
            unsigned high;
            asm volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
        }
        bool ymm = (saved & 0x6) == 0x6, zmm = (saved & 0xe6) == 0xe6, tiles = (saved & 0x60000) == 0x60000;
        add("avx", ymm && c >> 28 & 1);
        add("fma", ymm && c >> 12 & 1);
        add("f16c", ymm && c >> 29 & 1);
        unsigned most = 0;
        if (!__get_cpuid_count(7, 0, &most, &b, &c, &d)) return;
        add("avx2", ymm && b >> 5 & 1);
        add("bmi2", b >> 8 & 1);
        add("avx512f", zmm && b >> 16 & 1);
        add("avx512dq", zmm && b >> 17 & 1);
        add("avx512bw", zmm && b >> 30 & 1);
        add("avx512vl", zmm && b >> 31 & 1);
        add("avx512vbmi", zmm && c >> 1 & 1);
        add("avx512vnni", zmm && c >> 11 & 1);
        bool permitted = tiles && d >> 24 & 1 && may_use_tiles();
        add("amx-tile", permitted);
        add("amx-bf16", permitted && d >> 22 & 1);
        add("amx-int8", permitted && d >> 25 & 1);
        if (most >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) {
            add("avx-vnni", ymm && a >> 4 & 1);
            add("avx512bf16", zmm && a >> 5 & 1);
        }
#elif defined(__aarch64__) && defined(__linux__)
        unsigned long caps = getauxval(AT_HWCAP);
        add("asimd", caps & HWCAP_ASIMD);
        add("asimdhp", caps & HWCAP_ASIMDHP);
        add("asimddp", caps & HWCAP_ASIMDDP);
#endif
    }

    const std::string& text() const { return text_; }

    // Every name in `wanted`, which stand apart by a space.
    bool have(const char* wanted) const {
        for (const char* p = wanted; *p;) {
            size_t n = std::strcspn(p, " ");
            if ((" " + text_ + " ").find(" " + std::string(p, n) + " ") == std::string::npos) return false;
            p += n + (p[n] == ' ');
        }
        return true;
    }

  private:
    void add(const char* name, bool has) {
        if (has) text_ += (text_.empty() ? "" : " ") + std::string(name);
    }

    // Linux lets a process use AMX's tiles once it has asked: they make a thread's state 8 KiB larger. It refuses where
    // a signal stack is too small for that.
    static bool may_use_tiles() {
#if defined(__x86_64__) && defined(__linux__)
        constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
        return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
        return false;
#endif
    }

    std::string text_;
};

struct Candidate {
    const char* name;
    const Level* level;  // nullptr if it was not built
    const char* needs;
};

#define GJ_AVX2 "avx2 fma f16c bmi2"
#define GJ_AVX512 GJ_AVX2 " avx512f avx512bw avx512vl avx512dq avx512vnni"

// From the worst to the best. The build defines GJ_HAVE_... for the levels that its compiler can do.
const Candidate CANDIDATES[] = {
    {"portable", &LEVEL_portable, ""},
#ifdef GJ_HAVE_avx2
    {"avx2", &LEVEL_avx2, GJ_AVX2},
#else
    {"avx2", nullptr, ""},
#endif
#ifdef GJ_HAVE_avx512
    {"avx512", &LEVEL_avx512, GJ_AVX512},
#else
    {"avx512", nullptr, ""},
#endif
#ifdef GJ_HAVE_amx
    {"amx", &LEVEL_amx, GJ_AVX512 " avx512bf16 avx512vbmi amx-tile amx-int8 amx-bf16"},
#else
    {"amx", nullptr, ""},
#endif
#ifdef GJ_HAVE_neon
    {"neon", &LEVEL_neon, "asimd asimdhp asimddp"},
#else
    {"neon", nullptr, ""},
#endif
};

// Made once, when the library is first asked for anything.
struct Choice {
    Features features;
    std::string names, error;
    const Level* level = &LEVEL_portable;

    Choice() {
        for (const Candidate& c : CANDIDATES) {
            if (!c.level || !features.have(c.needs)) continue;
            names += (names.empty() ? "" : " ") + std::string(c.name);
            level = c.level;
        }
        const char* wanted = std::getenv("GGUF_JAX_NATIVE_LEVEL");
        if (!wanted || !*wanted) return;
        level = &LEVEL_portable;
        error = "GGUF_JAX_NATIVE_LEVEL=" + std::string(wanted) + ": ";
        for (const Candidate& c : CANDIDATES) {
            if (std::strcmp(c.name, wanted) != 0) continue;
            if (!c.level) error += "the library was built without this level; it has: " + names;
            else if (!features.have(c.needs)) error += "this CPU lacks this level; it has: " + names;
            else {
                error.clear();
                level = c.level;
            }
            return;
        }
        error += "expected portable, avx2, avx512, amx or neon";
    }
};

const Choice& choice() {
    static const Choice made;
    return made;
}

}  // namespace

const Level& level() { return *choice().level; }

}  // namespace gguf_jax

using gguf_jax::choice;

// Why the level that GGUF_JAX_NATIVE_LEVEL names cannot be used; empty if nothing is wrong.
GGUF_JAX_API const char* gguf_jax_level_error() { return choice().error.c_str(); }
// The level in use.
GGUF_JAX_API const char* gguf_jax_level() { return choice().level->name; }
// Those that could be, from the worst to the best, a space between them.
GGUF_JAX_API const char* gguf_jax_levels() { return choice().names.c_str(); }
GGUF_JAX_API const char* gguf_jax_cpu_features() { return choice().features.text().c_str(); }
GGUF_JAX_API int gguf_jax_threads() { return gguf_jax::thread_count(); }
GGUF_JAX_API void gguf_jax_set_threads(int n) { gguf_jax::set_thread_count(n); }
// The version of XLA's FFI that the handlers were compiled for: XLA refuses a newer one than its own.
GGUF_JAX_API int gguf_jax_ffi_version() { return XLA_FFI_API_MAJOR * 1000 + XLA_FFI_API_MINOR; }
