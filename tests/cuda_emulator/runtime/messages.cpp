// The words of error messages.
#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "machine.h"

namespace cuda_emulator {
namespace {

std::string file_name(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

std::string library_path() {
  Dl_info info{};
  dladdr(&machine, &info);
  std::string path = info.dli_fname != nullptr ? info.dli_fname : "";
  char buffer[4096];
  // For the program itself dladdr gives what it was called by.
  if (path.find(".so") == std::string::npos) {
    const ssize_t length = readlink("/proc/self/exe", buffer, sizeof buffer);
    if (length > 0) path.assign(buffer, static_cast<size_t>(length));
  }
  return path;
}

}  // namespace

std::string text(SourceLine line) {
  return file_name(line.file == nullptr ? "?" : line.file) + ":" + std::to_string(line.line);
}

std::string thread_text(int linear) {
  const int width = static_cast<int>(blockDim.x), height = static_cast<int>(blockDim.y);
  return "thread (" + std::to_string(linear % width) + "," + std::to_string(linear / width % height) + "," +
         std::to_string(linear / width / height) + ")";
}

std::string text(const Thread& thread) {
  return thread_text(thread.linear);
}

// Innermost line first, then the lines of the functions it was inlined into.
std::string code_text(uintptr_t offset) {
  static const std::string path = library_path();
  char command[4352];
  // An access reports where it would return to; the instruction before is the call.
  std::snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%lx 2>/dev/null", path.c_str(),
                static_cast<unsigned long>(offset - 1));
  std::string result;
  FILE* const output = popen(command, "r");
  if (output == nullptr) return "?";
  for (char line[1024]; std::fgets(line, sizeof line, output) != nullptr;) {
    line[std::strcspn(line, " \n")] = '\0';
    result += (result.empty() ? "" : " in ") + file_name(line);
  }
  pclose(output);
  return result.empty() ? "?" : result;
}

}  // namespace cuda_emulator
