// Stand-in for the dsv4_kv kernels: read at start, never compiled.
kernel void standin_dsv4_kv() {}
