#!/bin/sh
# Prepares a manylinux container: nvcc, where wheels get CUDA kernels. CUDA_REPOSITORY is the address
# of NVIDIA's file "cuda-rhel8.repo" for this processor, a setting of the repository.
set -eu
[ "${DENOISE_EXT_CUDA:-0}" = 1 ] || exit 0
dnf config-manager --add-repo "${CUDA_REPOSITORY:?is not set}"
dnf install -y cuda-nvcc-13-0 cuda-cudart-devel-13-0
