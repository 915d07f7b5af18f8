// Puts the compute capabilities that nvcc compiled for into the library's file, where vidseg/ops/library.py
// finds them even if the library does not load.
#define VIDSEG_TEXT(...) #__VA_ARGS__
#define VIDSEG_EXPANDED_TEXT(...) VIDSEG_TEXT(__VA_ARGS__)

__attribute__((used)) static const char architectures[] =
    "vidseg CUDA architectures: " VIDSEG_EXPANDED_TEXT(__CUDA_ARCH_LIST__);
