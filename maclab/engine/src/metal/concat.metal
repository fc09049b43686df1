// Stand-in for the concat kernels: read at start, never compiled.
kernel void standin_concat() {}
