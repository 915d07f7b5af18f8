// Compiles the file that the macro VIDSEG_KERNELS names for each instruction set of vectors.h. Its code is in
// the namespace VIDSEG_SET, and each of its functions is VIDSEG_TARGET. Without an include guard: a source
// file includes this once for each of its files of kernels.
#include "common/vectors.h"

#define VIDSEG_SET baseline
#define VIDSEG_TARGET
#include VIDSEG_KERNELS
#undef VIDSEG_SET
#undef VIDSEG_TARGET

#if VIDSEG_SET_OF_X86
#define VIDSEG_SET avx2
#define VIDSEG_TARGET VIDSEG_AVX2
#include VIDSEG_KERNELS
#undef VIDSEG_SET
#undef VIDSEG_TARGET
#endif

#undef VIDSEG_KERNELS
