// Prints a line for each case; usage: kernels FOLDER_OF_JPEGS. The instruction set goes to stderr.
#include <cstdio>

#include "cases.h"
#include "common/simd.h"

int main(int count, char** arguments) {
    if (count != 2) {
        std::fprintf(stderr, "usage: %s FOLDER_OF_JPEGS\n", arguments[0]);
        return 2;
    }
    try {
        std::fprintf(stderr, "instruction set: %s\n", vidseg::simd_name());
        cases::decode(arguments[1]);
        cases::sample();
        cases::recolor();
        cases::write();
        cases::operate();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
