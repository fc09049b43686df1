// Stand-in for the repeat kernels: read at start, never compiled.
kernel void standin_repeat() {}
