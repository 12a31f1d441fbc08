// How the code of one instruction set begins and ends: in between, functions may use the named features.
#pragma once

#define DENOISE_EXT_PRAGMA(...) _Pragma(#__VA_ARGS__)

#if defined(__clang__)
#define DENOISE_EXT_BEGIN_REGION(features) \
  DENOISE_EXT_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define DENOISE_EXT_END_REGION DENOISE_EXT_PRAGMA(clang attribute pop)
#define DENOISE_EXT_GCC_TARGET(option)
#else
#define DENOISE_EXT_BEGIN_REGION(features) \
  DENOISE_EXT_PRAGMA(GCC push_options)     \
  DENOISE_EXT_PRAGMA(GCC target(features))
#define DENOISE_EXT_GCC_TARGET(option) DENOISE_EXT_PRAGMA(GCC target(option))
#define DENOISE_EXT_END_REGION DENOISE_EXT_PRAGMA(GCC pop_options)
#endif
