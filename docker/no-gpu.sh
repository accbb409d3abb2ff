#!/bin/sh
# Writes stand-ins for the NVIDIA libraries that take 230 MiB of a process on a host without a GPU:  no-gpu.sh SITE_PACKAGES OUT
# PyTorch's CUDA wheels load them with `import torch` in any case, from the first folder of sys.path that has nvidia/*/lib
# (`_preload_cuda_lib` in torch/__init__.py). A stand-in has the library's name and its functions, each of which returns 1: "not
# initialized". `federation/job_process.py` puts OUT first where there is no NVIDIA driver.
set -eu
packages=$1 out=$2
case $(uname -m) in
x86_64) return_one='mov $1, %eax; ret' ;;
aarch64) return_one='mov w0, #1; ret' ;;
*) exit 0 ;;
esac

for name in cublasLt cublas cufft cusolver cusparse nvJitLink nvrtc; do
    for original in "$packages"/nvidia/*/lib/lib$name.so.[0-9]*; do
        [ -f "$original" ] || continue # CPU wheels have none
        library=$(basename "$original")
        folder=$out/$(dirname "${original#"$packages"/}")
        mkdir -p "$folder"
        {
            echo ".text; absent: $return_one"
            nm --dynamic --defined-only --without-symbol-versions "$original" |
                awk '($2 == "T" || $2 == "W") && !seen[$3]++ {print ".globl " $3 "; .set " $3 ", absent"}'
            echo '.section .note.GNU-stack'
        } | as -o /tmp/absent.o -
        echo "$library { global: *; };" >/tmp/absent.map # the originals version their symbols by their own name
        ld -shared -soname "$library" --version-script /tmp/absent.map -o "$folder/$library" /tmp/absent.o
    done
done
