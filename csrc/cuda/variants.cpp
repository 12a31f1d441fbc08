#include "variants.h"

namespace denoise_ext::cuda {

double compared_cost(const char*, double cost) {
  return cost;
}

}  // namespace denoise_ext::cuda
