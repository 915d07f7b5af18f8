// Errors of all libraries. PyTorch passes them on to Python: std::invalid_argument becomes a ValueError,
// std::runtime_error a RuntimeError.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace vidseg {

// Throws Error with the parts, streamed one after another, as its message.
template <class Error, class... Parts>
[[noreturn]] void raise(const Parts&... parts) {
    std::ostringstream message{std::string()};  // GCC's default constructor needs a libstdc++ of 2019
    (message << ... << parts);
    throw Error(message.str());
}

// Data or environment is at fault: a damaged file, a failed system call.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
    raise<std::runtime_error>(parts...);
}

template <class... Parts>
void check(bool holds, const Parts&... parts) {
    if (!holds) fail(parts...);
}

// The caller is at fault: an argument has a wrong value. The message names argument, value and rule.
template <class... Parts>
void require(bool holds, const Parts&... parts) {
    if (!holds) raise<std::invalid_argument>(parts...);
}

}  // namespace vidseg
