// Stand-in for the moe kernels: read at start, never compiled.
kernel void standin_moe() {}
