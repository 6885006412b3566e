// REACTOR: exports of every number type; `_initialize` has to run before them.
#include <stdint.h>

static int32_t ready;

__attribute__((constructor)) static void prepare(void) { ready = 1; }

__attribute__((export_name("ready"))) int32_t is_ready(void) { return ready; }
__attribute__((export_name("add"))) int32_t add(int32_t a, int32_t b) { return (int32_t)((uint32_t)a + (uint32_t)b); }
__attribute__((export_name("add64"))) int64_t add64(int64_t a, int64_t b) {
    return (int64_t)((uint64_t)a + (uint64_t)b);
}
__attribute__((export_name("halve"))) float halve(float a) { return a / 2; }
__attribute__((export_name("scale"))) double scale(double a, int32_t by) { return a * by; }
