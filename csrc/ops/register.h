// How an operator is registered. The same sources make three things: a library for the CPU alone, one
// with the CUDA kernels (DENOISE_EXT_WITH_CUDA), and for tests one in which the CUDA side runs emulated
// on CPU tensors, under a namespace of its own (DENOISE_EXT_EMULATE_CUDA).
#pragma once

#include <torch/csrc/stable/library.h>

#if defined(DENOISE_EXT_EMULATE_CUDA)
#define DENOISE_EXT_NAMESPACE denoise_ext_emulated
#else
#define DENOISE_EXT_NAMESPACE denoise_ext
#endif

// DENOISE_EXT_SCHEMAS(m) { m.def("name(...) -> ..."); }
#define DENOISE_EXT_SCHEMAS(m) STABLE_TORCH_LIBRARY_FRAGMENT(DENOISE_EXT_NAMESPACE, m)

#define DENOISE_EXT_REGISTER_FOR_(key, name, device)                             \
  STABLE_TORCH_LIBRARY_IMPL(DENOISE_EXT_NAMESPACE, key, m) {                     \
    m.impl(#name, TORCH_BOX(&denoise_ext::ops::name<denoise_ext::ops::device>)); \
  }

// DENOISE_EXT_REGISTER(name): denoise_ext::ops::name is a template over the device (see device.h).
#if defined(DENOISE_EXT_EMULATE_CUDA)
#define DENOISE_EXT_REGISTER(name) DENOISE_EXT_REGISTER_FOR_(CPU, name, Cuda)
#elif defined(DENOISE_EXT_WITH_CUDA)
#define DENOISE_EXT_REGISTER(name)          \
  DENOISE_EXT_REGISTER_FOR_(CPU, name, Cpu) \
  DENOISE_EXT_REGISTER_FOR_(CUDA, name, Cuda)
#else
#define DENOISE_EXT_REGISTER(name) DENOISE_EXT_REGISTER_FOR_(CPU, name, Cpu)
#endif
