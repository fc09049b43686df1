// Stand-in for the dsv4_hc kernels: read at start, never compiled.
kernel void standin_dsv4_hc() {}
