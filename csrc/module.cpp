// Python module denoise_ext._native: facts about the build and the choice of instruction set.
// Importing it also registers the operators (static initialisers in csrc/ops). No tensors here.
//
// In Python's own C API: the headers of a binding library take longer to compile than most kernels.
#include <Python.h>

#include <memory>
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

namespace {

#define DENOISE_EXT_STRING_(x) #x
#define DENOISE_EXT_STRING(x) DENOISE_EXT_STRING_(x)

struct Release {
  void operator()(PyObject* object) const { Py_DECREF(object); }
};
using Object = std::unique_ptr<PyObject, Release>;  // nullptr: a Python error is set

PyObject* text_of(const std::string& text) {
  return PyUnicode_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size()));
}

// False: a Python error is set. Takes over `item`, which may be nullptr.
bool append(const Object& list, PyObject* item) {
  const Object owned(item);
  return list != nullptr && owned != nullptr && PyList_Append(list.get(), item) == 0;
}

// What f() returns, C++ exceptions as Python's.
template <class F>
PyObject* with_python_errors(const F& f) {
  try {
    return f();
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

PyObject* build_info(PyObject*, PyObject*) {
#ifdef DENOISE_EXT_WITH_CUDA
  PyObject* const cuda = Py_True;
  const char* const cuda_version = DENOISE_EXT_STRING(DENOISE_EXT_CUDA_VERSION);
  const char* const archs = DENOISE_EXT_STRING(DENOISE_EXT_CUDA_ARCHS);
  const char* const archs_of = DENOISE_EXT_STRING(DENOISE_EXT_CUDA_ARCHS_OF);
#else
  PyObject* const cuda = Py_False;
  const char *const cuda_version = nullptr, *const archs = nullptr, *const archs_of = nullptr;
#endif
  return Py_BuildValue("{s:s, s:s, s:s, s:O, s:z, s:z, s:z}", "compiler", __VERSION__, "torch_built_with",
                       DENOISE_EXT_STRING(DENOISE_EXT_TORCH_VERSION), "torch_minimum",
                       DENOISE_EXT_STRING(DENOISE_EXT_TORCH_MINIMUM), "cuda", cuda, "cuda_version",
                       cuda_version, "cuda_archs", archs, "cuda_archs_of", archs_of);
}

#ifdef DENOISE_EXT_WITH_CUDA
std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// Appends {"name", "capability"} of each GPU to `devices`; `error` says why one of them or all are missing.
bool list_devices(const denoise_ext::cuda::Versions& versions, const Object& devices, std::string& error) {
  const char* text = nullptr;
  const int count = denoise_ext::cuda::device_count(&text);
  if (count < 0) error = text;
  char reason[256];
  if (denoise_ext::cuda::driver_is_too_old(versions, reason, sizeof reason)) error = reason;
  if (count == 0) error = "no CUDA device is present";
  for (int i = 0; i < count; ++i) {
    char name[256];
    int major = 0, minor = 0;
    const int code = denoise_ext::cuda::device_properties(i, name, sizeof name, &major, &minor);
    if (code != 0) {
      error = denoise_ext::cuda::error_text(code);
      continue;
    }
    const std::string capability = std::to_string(major) + "." + std::to_string(minor);
    if (!append(devices, Py_BuildValue("{s:s, s:s}", "name", name, "capability", capability.c_str())))
      return false;
  }
  return true;
}
#endif

// {"devices": [{"name", "capability"}], "error": why there is none, or None,
//  "driver_version": the newest CUDA that the driver serves, or None without a driver}
PyObject* cuda_status(PyObject*, PyObject*) {
  return with_python_errors([]() -> PyObject* {
    const Object devices(PyList_New(0));
    if (devices == nullptr) return nullptr;
    std::string error, driver;
#ifdef DENOISE_EXT_WITH_CUDA
    const denoise_ext::cuda::Versions versions = denoise_ext::cuda::versions();
    if (versions.driver != 0) driver = version_text(versions.driver);
    if (!list_devices(versions, devices, error)) return nullptr;
#else
    error = "this build has no CUDA support: nvcc was not found, or DENOISE_EXT_CUDA=0, when it was built";
#endif
    return Py_BuildValue("{s:O, s:z, s:z}", "devices", devices.get(), "error",
                         error.empty() ? nullptr : error.c_str(), "driver_version",
                         driver.empty() ? nullptr : driver.c_str());
  });
}

PyObject* isa_available(PyObject*, PyObject*) {
  return with_python_errors([]() -> PyObject* {
    Object names(PyList_New(0));
    for (const std::string& name : denoise_ext::cpu::isa_available())
      if (!append(names, text_of(name))) return nullptr;
    return names.release();
  });
}

PyObject* isa_in_use(PyObject*, PyObject*) {
  return with_python_errors([] { return PyUnicode_FromString(denoise_ext::cpu::kernels().isa); });
}

PyObject* force_isa(PyObject*, PyObject* arguments) {
  const char* name = nullptr;
  if (!PyArg_ParseTuple(arguments, "s:force_isa", &name)) return nullptr;
  return with_python_errors([&] {
    denoise_ext::cpu::force_isa(name);
    return Py_NewRef(Py_None);
  });
}

PyObject* kept_weight_bytes(PyObject*, PyObject*) {
  return PyLong_FromLongLong(denoise_ext::cpu::kept_weight_bytes());
}

PyObject* forget_kept_weights(PyObject*, PyObject*) {
  denoise_ext::cpu::forget_kept_weights();
  Py_RETURN_NONE;
}

PyObject* tf32_query = nullptr;  // kept for ever: operators may run until the process ends

// For any thread. An error of the query is written to stderr, and the operator fails.
bool ask_tf32_query() {
  const PyGILState_STATE state = PyGILState_Ensure();
  PyObject* const answer = PyObject_CallNoArgs(tf32_query);
  const int allowed = answer == nullptr ? -1 : PyObject_IsTrue(answer);
  if (allowed < 0) PyErr_WriteUnraisable(tf32_query);
  Py_XDECREF(answer);
  PyGILState_Release(state);
  if (allowed < 0) throw std::runtime_error("whether convolutions may round to tf32 could not be read");
  return allowed != 0;
}

PyObject* set_tf32_query(PyObject*, PyObject* query) {
  PyObject* const before = tf32_query;
  tf32_query = Py_NewRef(query);
  Py_XDECREF(before);
  denoise_ext::ops::set_tf32_query(ask_tf32_query);
  Py_RETURN_NONE;
}

// For this thread; returns those before. A build without CUDA has no kernels to prefer.
PyObject* prefer_kernels(PyObject*, PyObject* arguments) {
  const char* names = nullptr;
  if (!PyArg_ParseTuple(arguments, "s:prefer_kernels", &names)) return nullptr;
#ifdef DENOISE_EXT_WITH_CUDA
  return with_python_errors([&] {
    const std::string before = denoise_ext::cuda::preferred_variants();
    if (!denoise_ext::cuda::prefer_variants(names))
      throw std::invalid_argument("names must be shorter than 256 characters, got " +
                                  std::to_string(std::string(names).size()));
    return text_of(before);
  });
#else
  return text_of("");
#endif
}

// The explanations of the operators that call() calls (see ops/explain.h).
PyObject* explain(PyObject*, PyObject* arguments) {
  PyObject* call = nullptr;
  int compute_capability = 0;
  if (!PyArg_ParseTuple(arguments, "Oi:explain", &call, &compute_capability)) return nullptr;
#ifndef DENOISE_EXT_WITH_CUDA
  if (compute_capability != 0)
    return text_of(
        "none: this build has no CUDA kernels (nvcc was not found, or DENOISE_EXT_CUDA=0, when it was "
        "built)");
#endif
  return with_python_errors([&]() -> PyObject* {
    denoise_ext::ops::Explanation explanation(compute_capability);
    const Object result(PyObject_CallNoArgs(call));
    return result == nullptr ? nullptr : text_of(explanation.text());
  });
}

// A docstring with the signature that Python's inspect reads.
#define DENOISE_EXT_DOC(signature, text) signature "\n--\n\n" text

PyMethodDef functions[] = {
    {"build_info", build_info, METH_NOARGS,
     DENOISE_EXT_DOC("build_info($module, /)",
                     "Compiler, torch and CUDA versions this library was built with.")},
    {"cuda_status", cuda_status, METH_NOARGS,
     DENOISE_EXT_DOC("cuda_status($module, /)",
                     "The GPUs this build can see and, where there are none, why.")},
    {"isa_available", isa_available, METH_NOARGS,
     DENOISE_EXT_DOC("isa_available($module, /)", "Instruction sets this processor can run, best first.")},
    {"isa_in_use", isa_in_use, METH_NOARGS,
     DENOISE_EXT_DOC("isa_in_use($module, /)", "The instruction set the CPU kernels use now.")},
    {"force_isa", force_isa, METH_VARARGS,
     DENOISE_EXT_DOC("force_isa($module, name, /)",
                     "Use one of isa_available() from now on; '' returns to the automatic choice.")},
    {"kept_weight_bytes", kept_weight_bytes, METH_NOARGS,
     DENOISE_EXT_DOC("kept_weight_bytes($module, /)",
                     "Bytes of transformed convolution weights that are kept for later calls (64 MiB at "
                     "most).")},
    {"forget_kept_weights", forget_kept_weights, METH_NOARGS,
     DENOISE_EXT_DOC("forget_kept_weights($module, /)", "Release them.")},
    {"set_tf32_query", set_tf32_query, METH_O,
     DENOISE_EXT_DOC("set_tf32_query($module, query, /)",
                     "Ask this function whether float32 convolutions on a GPU may round factors to tf32 by "
                     "default.")},
    {"prefer_kernels", prefer_kernels, METH_VARARGS,
     DENOISE_EXT_DOC("prefer_kernels($module, names, /)",
                     "On a GPU, take these kernels (names with a blank between them) in this thread from "
                     "now on, wherever they can run; returns the names before.")},
    {"explain", explain, METH_VARARGS,
     DENOISE_EXT_DOC("explain($module, call, compute_capability, /)",
                     "Which kernels the operators take that call() calls, in place of running them.")},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    "_native",
    "Native side of denoise_ext: build facts and CPU instruction set; registers torch.ops.denoise_ext.",
    -1,
    functions,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
};

}  // namespace

PyMODINIT_FUNC PyInit__native() {
  return PyModule_Create(&definition);
}
