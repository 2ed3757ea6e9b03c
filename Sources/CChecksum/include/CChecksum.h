// The checksums of ext4 and jbd2, in the seedable raw form that the formats use: no initial or final inversion here.
#ifndef JEXT4_CCHECKSUM_H
#define JEXT4_CCHECKSUM_H
#include <stddef.h>
#include <stdint.h>

/// CRC-32C (Castagnoli, reflected), continued from `crc`. ext4 and jbd2 start from ~0 and store the result uninverted.
uint32_t jext4_crc32c(uint32_t crc, const void *bytes, size_t count);

/// CRC-32 (IEEE 802.3, most significant bit first), continued from `crc`: jbd2's checksum v1 over whole transactions.
uint32_t jext4_crc32_be(uint32_t crc, const void *bytes, size_t count);

/// CRC-16 (ANSI, reflected), continued from `crc`: the group descriptor checksum of uninit_bg (gdt_csum).
uint16_t jext4_crc16(uint16_t crc, const void *bytes, size_t count);
#endif
