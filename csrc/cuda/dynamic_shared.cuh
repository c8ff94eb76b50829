// The one name for shared memory whose size the launch says; aligned for the swizzle of wgmma.
#pragma once
#include <cuda_runtime.h>

namespace trim {

alignas(1024) extern __shared__ unsigned char trim_dynamic_shared[];

}  // namespace trim
