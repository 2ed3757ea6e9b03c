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

#if defined(__x86_64__)
/* The instruction takes one word a cycle and answers three cycles later: so three parts of a block are checked at once.
   A part is a multiple of 8 bytes, and three of them nearly fill 4 KiB, or 1 KiB. */
struct parts {
    size_t count;
    uint32_t skip[4][256]; /* by byte of a checksum: what `count` bytes of zeros make of it */
};
static struct parts large = {.count = 1360}, small = {.count = 336};

static void make_skip(struct parts *parts) {
    uint32_t bits[32];
    for (int bit = 0; bit < 32; bit++) {
        uint32_t c = 1u << bit;
        for (size_t n = 0; n < parts->count; n++) c = crc32c_table[c & 0xff] ^ c >> 8;
        bits[bit] = c;
    }
    for (int byte = 0; byte < 4; byte++) {
        for (int value = 0; value < 256; value++) {
            for (int bit = 0; bit < 8; bit++) {
                if (value >> bit & 1) parts->skip[byte][value] ^= bits[8 * byte + bit];
            }
        }
    }
}
#endif

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
    make_skip(&large);
    make_skip(&small);
#endif
}

#if defined(__x86_64__)
static uint64_t word_at(const unsigned char *p) {
    uint64_t word;
    memcpy(&word, p, 8);
    return word;
}

static uint32_t skip(const struct parts *parts, uint32_t c) {
    return parts->skip[0][c & 0xff] ^ parts->skip[1][c >> 8 & 0xff] ^ parts->skip[2][c >> 16 & 0xff] ^
           parts->skip[3][c >> 24];
}

/* Three parts from `p` on. A checksum is linear: that of the first, led over the zeros in the place of the second, and
   that of the second on its own add up. */
__attribute__((target("sse4.2"))) static uint32_t crc32c_parts(
    uint32_t crc, const unsigned char *p, const struct parts *parts) {
    uint64_t first = crc, second = 0, third = 0;
    const size_t count = parts->count;
    for (size_t n = 0; n < count; n += 8) {
        first = __builtin_ia32_crc32di(first, word_at(p + n));
        second = __builtin_ia32_crc32di(second, word_at(p + count + n));
        third = __builtin_ia32_crc32di(third, word_at(p + 2 * count + n));
    }
    return skip(parts, skip(parts, (uint32_t)first) ^ (uint32_t)second) ^ (uint32_t)third;
}

__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(uint32_t crc, const unsigned char *p, size_t n) {
    for (; n >= 3 * large.count; p += 3 * large.count, n -= 3 * large.count) crc = crc32c_parts(crc, p, &large);
    for (; n >= 3 * small.count; p += 3 * small.count, n -= 3 * small.count) crc = crc32c_parts(crc, p, &small);
    uint64_t c = crc;
    for (; n >= 8; p += 8, n -= 8) c = __builtin_ia32_crc32di(c, word_at(p));
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
