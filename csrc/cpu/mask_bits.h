// Masks of one byte a weight, and their packed form.
#pragma once
#include <cstdint>
#include <cstring>

namespace trim {
namespace {

// Eight bytes of 0 or 1 into one byte, the first into the lowest bit; the product gathers one bit of each at the top.
inline uint8_t pack_byte(const uint8_t* mask) {
  uint64_t bytes;
  std::memcpy(&bytes, mask, sizeof bytes);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  bytes = __builtin_bswap64(bytes);
#endif
  return static_cast<uint8_t>(bytes * 0x0102040810204080u >> 56);
}

}  // namespace
}  // namespace trim
