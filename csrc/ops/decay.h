// How suppression lowers the scores of segments that overlap a selected one.
#pragma once

#include <cstdint>

namespace vidseg {

enum class Decay : int64_t { gaussian = 0, linear = 1, hard = 2 };

}  // namespace vidseg
