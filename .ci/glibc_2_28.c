/* Functions and one variable of glibc 2.32 to 2.34 that the libraries of a wheel take from here, so that the wheel also
 * runs with glibc 2.28, PyTorch's oldest. Each has the name that a newer glibc gave it, is visible in its library only,
 * and calls what glibc has had under that name, or for that purpose, from the beginning. `.ci/wheels` links this file;
 * auditwheel names a symbol that is missing here. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/stat.h>

#if defined(__x86_64__)
#define FIRST "GLIBC_2.2.5"
#define STAT_VERSION 1
#elif defined(__aarch64__)
#define FIRST "GLIBC_2.17"
#define STAT_VERSION 0
#else
#error "the first version of glibc for this processor is missing here"
#endif
#define HIDDEN __attribute__((visibility("hidden")))

/* Since 2.32: whether the process never had a second thread. 0 is right for every process: libstdc++ then counts
 * references with atomic instructions. */
HIDDEN char __libc_single_threaded = 0;

/* Since 2.33; before, the headers expanded them to these calls. */
#define OLD(result, name, ...)                     \
    extern result old_##name(__VA_ARGS__);         \
    __asm__(".symver old_" #name "," #name "@" FIRST)
OLD(int, __xstat, int, const char*, struct stat*);
OLD(int, __fxstat, int, int, struct stat*);
OLD(int, __xstat64, int, const char*, struct stat64*);
OLD(int, __lxstat64, int, const char*, struct stat64*);
OLD(int, __fxstat64, int, int, struct stat64*);
HIDDEN int stat(const char* path, struct stat* status) { return old___xstat(STAT_VERSION, path, status); }
HIDDEN int fstat(int file, struct stat* status) { return old___fxstat(STAT_VERSION, file, status); }
HIDDEN int stat64(const char* path, struct stat64* status) { return old___xstat64(STAT_VERSION, path, status); }
HIDDEN int lstat64(const char* path, struct stat64* status) { return old___lxstat64(STAT_VERSION, path, status); }
HIDDEN int fstat64(int file, struct stat64* status) { return old___fxstat64(STAT_VERSION, file, status); }

/* In 2.34 these moved from libpthread, which every Python loads, to libc, and got a second version. */
#define MOVED(name, type)                           \
    OLD(int, name, type*);                          \
    HIDDEN int name(type* of) { return old_##name(of); }
MOVED(pthread_rwlock_rdlock, pthread_rwlock_t)
MOVED(pthread_rwlock_wrlock, pthread_rwlock_t)
MOVED(pthread_rwlock_unlock, pthread_rwlock_t)
MOVED(pthread_mutex_trylock, pthread_mutex_t)
MOVED(pthread_mutexattr_init, pthread_mutexattr_t)
MOVED(pthread_mutexattr_destroy, pthread_mutexattr_t)
OLD(int, pthread_mutexattr_settype, pthread_mutexattr_t*, int);
HIDDEN int pthread_mutexattr_settype(pthread_mutexattr_t* attributes, int kind) {
    return old_pthread_mutexattr_settype(attributes, kind);
}

/* The libstdc++ of GCC 8 does not have these, which GCC 12 calls where it does not expand them. */
extern void _ZSt17__throw_bad_allocv(void) __attribute__((noreturn));
HIDDEN void _ZSt28__throw_bad_array_new_lengthv(void) { _ZSt17__throw_bad_allocv(); }

/* Default constructors of string streams: those that take the mode of opening. */
#define STREAM(name, mode)                                                                    \
    extern void _ZNSt7__cxx111##name##IcSt11char_traitsIcESaIcEEC1ESt13_Ios_Openmode(void*, int); \
    HIDDEN void _ZNSt7__cxx111##name##IcSt11char_traitsIcESaIcEEC1Ev(void* stream) {              \
        _ZNSt7__cxx111##name##IcSt11char_traitsIcESaIcEEC1ESt13_Ios_Openmode(stream, mode);       \
    }
STREAM(8basic_stringstream, 24)  /* in and out */
STREAM(9basic_ostringstream, 16) /* out */
