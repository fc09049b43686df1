// Stand-in for the argsort kernels: read at start, never compiled.
kernel void standin_argsort() {}
