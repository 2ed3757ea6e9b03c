#include "CChecksum.h"

#include <pthread.h>
#include <string.h>

#define CRC32C_POLYNOMIAL_REFLECTED 0x82F63B78u
#define CRC32_POLYNOMIAL 0x04C11DB7u
#define CRC16_POLYNOMIAL_REFLECTED 0xA001u

static uint32_t crc32c_table[256];
static uint32_t crc32_be_table[256];
static uint16_t crc16_table[256];
static int has_sse42;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_tables(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t c = byte, be = byte << 24;
        uint16_t s = (uint16_t)byte;
        for (int bit = 0; bit < 8; bit++) {
            c = c & 1 ? c >> 1 ^ CRC32C_POLYNOMIAL_REFLECTED : c >> 1;
            be = be & 0x80000000u ? be << 1 ^ CRC32_POLYNOMIAL : be << 1;
            s = (uint16_t)(s & 1 ? s >> 1 ^ CRC16_POLYNOMIAL_REFLECTED : s >> 1);
        }
        crc32c_table[byte] = c;
        crc32_be_table[byte] = be;
        crc16_table[byte] = s;
    }
#if defined(__x86_64__)
    has_sse42 = __builtin_cpu_supports("sse4.2");
#endif
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(uint32_t crc, const unsigned char *p, size_t n) {
    uint64_t c = crc;
    for (; n >= 8; p += 8, n -= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        c = __builtin_ia32_crc32di(c, word);
    }
    for (; n; p++, n--) c = __builtin_ia32_crc32qi((uint32_t)c, *p);
    return (uint32_t)c;
}
#endif

uint32_t jext4_crc32c(uint32_t crc, const void *bytes, size_t count) {
    const unsigned char *p = bytes;
    pthread_once(&once, make_tables);
#if defined(__x86_64__)
    if (has_sse42) return crc32c_sse42(crc, p, count);
#endif
    for (; count; p++, count--) crc = crc32c_table[(crc ^ *p) & 0xff] ^ crc >> 8;
    return crc;
}

uint32_t jext4_crc32_be(uint32_t crc, const void *bytes, size_t count) {
    const unsigned char *p = bytes;
    pthread_once(&once, make_tables);
    for (; count; p++, count--) crc = crc32_be_table[(crc >> 24 ^ *p) & 0xff] ^ crc << 8;
    return crc;
}

uint16_t jext4_crc16(uint16_t crc, const void *bytes, size_t count) {
    const unsigned char *p = bytes;
    pthread_once(&once, make_tables);
    for (; count; p++, count--) crc = (uint16_t)(crc16_table[(crc ^ *p) & 0xff] ^ crc >> 8);
    return crc;
}
