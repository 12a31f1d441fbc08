#!/bin/sh
# Prepares a manylinux container: nvcc, where wheels get CUDA kernels.
set -eu
[ "${DENOISE_EXT_CUDA:-0}" = 1 ] || exit 0
dnf config-manager --add-repo \
  https://developer.download.nvidia.com/compute/cuda/repos/rhel8/x86_64/cuda-rhel8.repo
dnf install -y cuda-nvcc-13-0 cuda-cudart-devel-13-0
