// The one exception type of this library. It crosses into torch as a std::runtime_error, whose text Python
// sees.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace vidseg {

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
    std::ostringstream message;
    (message << ... << parts);
    throw std::runtime_error(message.str());
}

template <typename... Parts>
void check(bool condition, const Parts&... parts) {
    if (!condition) fail(parts...);
}

}  // namespace vidseg
