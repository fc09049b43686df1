// Stand-in for the bin kernels: read at start, never compiled.
kernel void standin_bin() {}
