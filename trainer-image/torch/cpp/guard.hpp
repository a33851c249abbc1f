// Owns how C++ exceptions end at the border to Rust: an entry point returns nullptr on success, else a message
// that the caller releases with bessemer_torch_free. It must not know what the entry points do.
#pragma once

#include <ATen/ATen.h>
#include <cstdlib>
#include <cstring>

namespace bessemer {

inline char* message(const char* text) {
  char* copy = static_cast<char*>(std::malloc(std::strlen(text) + 1));
  if (copy != nullptr) std::strcpy(copy, text);
  return copy;
}

template <typename Body>
char* guarded(Body body) {
  try {
    body();
    return nullptr;
  } catch (const c10::Error& error) {
    return message(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return message(error.what());
  } catch (...) {
    return message("unknown C++ exception");
  }
}

}  // namespace bessemer
