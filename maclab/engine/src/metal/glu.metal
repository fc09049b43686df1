// Stand-in for the glu kernels: read at start, never compiled.
kernel void standin_glu() {}
