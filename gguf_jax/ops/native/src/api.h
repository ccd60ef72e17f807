// What the library shows to Python besides its FFI handlers: plain C, called through ctypes.
#pragma once

#define GGUF_JAX_API extern "C" __attribute__((visibility("default")))
