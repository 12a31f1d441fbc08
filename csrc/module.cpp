// Python module denoise_ext._native: facts about the build and the choice of instruction set.
// Importing it also registers the operators (static initialisers in csrc/ops). No tensors here.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "cpu/isa.h"
#include "cpu/weight_cache.h"
#include "ops/explain.h"
#include "ops/tf32.h"
#include "params/device_list.h"
#include "params/driver.h"
#include "params/launch.h"
#include "params/preferred.h"

namespace py = pybind11;

namespace {

#define DENOISE_EXT_STRING_(x) #x
#define DENOISE_EXT_STRING(x) DENOISE_EXT_STRING_(x)

py::dict build_info() {
  py::dict info;
  info["compiler"] = __VERSION__;
  info["torch_built_with"] = DENOISE_EXT_STRING(DENOISE_EXT_TORCH_VERSION);
  info["torch_minimum"] = DENOISE_EXT_STRING(DENOISE_EXT_TORCH_MINIMUM);
#ifdef DENOISE_EXT_WITH_CUDA
  info["cuda"] = true;
  info["cuda_version"] = DENOISE_EXT_STRING(DENOISE_EXT_CUDA_VERSION);
  info["cuda_archs"] = DENOISE_EXT_STRING(DENOISE_EXT_CUDA_ARCHS);
  info["cuda_archs_of"] = DENOISE_EXT_STRING(DENOISE_EXT_CUDA_ARCHS_OF);
#else
  info["cuda"] = false;
  info["cuda_version"] = py::none();
  info["cuda_archs"] = py::none();
  info["cuda_archs_of"] = py::none();
#endif
  return info;
}

#ifdef DENOISE_EXT_WITH_CUDA
std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}
#endif

// {"devices": [{"name", "capability"}], "error": why there is none, or None,
//  "driver_version": the newest CUDA that the driver serves, or None without a driver}
py::dict cuda_status() {
  py::list devices;
  py::object error = py::none();
  py::object driver_version = py::none();
#ifdef DENOISE_EXT_WITH_CUDA
  const denoise_ext::cuda::Versions versions = denoise_ext::cuda::versions();
  if (versions.driver != 0) driver_version = py::str(version_text(versions.driver));
  const char* text = nullptr;
  const int count = denoise_ext::cuda::device_count(&text);
  if (count < 0) error = py::str(text);
  char reason[256];
  if (denoise_ext::cuda::driver_is_too_old(versions, reason, sizeof reason)) error = py::str(reason);
  if (count == 0) error = py::str("no CUDA device is present");
  for (int i = 0; i < count; ++i) {
    char name[256];
    int major = 0, minor = 0;
    const int code = denoise_ext::cuda::device_properties(i, name, sizeof name, &major, &minor);
    if (code != 0) {
      error = py::str(denoise_ext::cuda::error_text(code));
      continue;
    }
    py::dict device;
    device["name"] = std::string(name);
    device["capability"] = std::to_string(major) + "." + std::to_string(minor);
    devices.append(device);
  }
#else
  error =
      py::str("this build has no CUDA support: nvcc was not found, or DENOISE_EXT_CUDA=0, when it was built");
#endif
  py::dict status;
  status["devices"] = devices;
  status["error"] = error;
  status["driver_version"] = driver_version;
  return status;
}

py::list isa_available() {
  py::list names;
  for (const std::string& name : denoise_ext::cpu::isa_available()) names.append(name);
  return names;
}

// The explanations of the operators that call() calls (see ops/explain.h).
std::string explain(const py::function& call, int compute_capability) {
#ifndef DENOISE_EXT_WITH_CUDA
  if (compute_capability != 0)
    return "none: this build has no CUDA kernels (nvcc was not found, or DENOISE_EXT_CUDA=0, when it was "
           "built)";
#endif
  denoise_ext::ops::Explanation explanation(compute_capability);
  call();
  return explanation.text();
}

// For this thread; returns those before. A build without CUDA has no kernels to prefer.
std::string prefer_kernels([[maybe_unused]] const std::string& names) {
#ifdef DENOISE_EXT_WITH_CUDA
  const std::string before = denoise_ext::cuda::preferred_variants();
  if (!denoise_ext::cuda::prefer_variants(names.c_str()))
    throw std::invalid_argument("names must be shorter than 256 characters, got " +
                                std::to_string(names.size()));
  return before;
#else
  return "";
#endif
}

// Kept for ever: operators may run until the process ends.
py::function* tf32_query = nullptr;

void set_tf32_query(const py::function& query) {
  if (tf32_query == nullptr) tf32_query = new py::function;
  *tf32_query = query;
  denoise_ext::ops::set_tf32_query([] {
    const py::gil_scoped_acquire gil;
    return py::cast<bool>((*tf32_query)());
  });
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() =
      "Native side of denoise_ext: build facts and CPU instruction set; registers torch.ops.denoise_ext.";
  m.def("build_info", &build_info, "Compiler, torch and CUDA versions this library was built with.");
  m.def("cuda_status", &cuda_status, "The GPUs this build can see and, where there are none, why.");
  m.def("isa_available", &isa_available, "Instruction sets this processor can run, best first.");
  m.def(
      "isa_in_use", [] { return std::string(denoise_ext::cpu::kernels().isa); },
      "The instruction set the CPU kernels use now.");
  m.def("force_isa", &denoise_ext::cpu::force_isa, py::arg("name"),
        "Use one of isa_available() from now on; '' returns to the automatic choice.");
  m.def("kept_weight_bytes", &denoise_ext::cpu::kept_weight_bytes,
        "Bytes of transformed convolution weights that are kept for later calls (64 MiB at most).");
  m.def("forget_kept_weights", &denoise_ext::cpu::forget_kept_weights, "Release them.");
  m.def("set_tf32_query", &set_tf32_query, py::arg("query"),
        "Ask this function whether float32 convolutions on a GPU may round factors to tf32 by default.");
  m.def("prefer_kernels", &prefer_kernels, py::arg("names"),
        "On a GPU, take these kernels (names with a blank between them) in this thread from now on, "
        "wherever they can run; returns the names before.");
  m.def("explain", &explain, py::arg("call"), py::arg("compute_capability"),
        "Which kernels the operators take that call() calls, in place of running them.");
}
