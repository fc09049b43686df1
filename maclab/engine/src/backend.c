/* The one file that differs between `make` and `make cpu`. */
#include "ds4.h"

#ifdef DS4_NO_GPU
const char *const backend_default = "cpu";
const bool backend_has_graph = false;
#else
const char *const backend_default = "metal";
const bool backend_has_graph = true;
/* The simulated otool reads the linked frameworks from this marker. */
__attribute__((used)) const char lab_frameworks[] = "LAB_FRAMEWORKS:Foundation,Metal";
#if DS4_FAULT_LINK
void ds4_metal_tensor_ops_init(void);
__attribute__((used)) void (*const tensor_ops)(void) = ds4_metal_tensor_ops_init; /* not defined anywhere */
#endif
#endif
