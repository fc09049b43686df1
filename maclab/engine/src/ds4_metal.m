/* Asks for a Metal device in both ways, compiles a kernel and runs it: what a proof on a real Mac wants to know of
 * daemons and ssh sessions. Only built where Metal is. */
#import <Foundation/Foundation.h>
#import <Metal/Metal.h>

static NSString *const source = @"#include <metal_stdlib>\n"
                                 "kernel void doubled(device uint *values [[buffer(0)]], uint i "
                                 "[[thread_position_in_grid]]) { values[i] *= 2; }";

static int run(id<MTLDevice> device) {
    NSError *error = nil;
    id<MTLLibrary> library = [device newLibraryWithSource:source options:nil error:&error];
    id<MTLFunction> function = [library newFunctionWithName:@"doubled"];
    id<MTLComputePipelineState> pipeline =
        function ? [device newComputePipelineStateWithFunction:function error:&error] : nil;
    if (!pipeline) {
        printf("kernel does not compile: %s\n", error.localizedDescription.UTF8String ?: "no reason");
        return 3;
    }
    unsigned values[4] = {1, 2, 3, 4};
    id<MTLBuffer> buffer = [device newBufferWithBytes:values length:sizeof(values) options:MTLResourceStorageModeShared];
    id<MTLCommandBuffer> commands = [[device newCommandQueue] commandBuffer];
    id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoder];
    [encoder setComputePipelineState:pipeline];
    [encoder setBuffer:buffer offset:0 atIndex:0];
    [encoder dispatchThreads:MTLSizeMake(4, 1, 1) threadsPerThreadgroup:MTLSizeMake(4, 1, 1)];
    [encoder endEncoding];
    [commands commit];
    [commands waitUntilCompleted];
    const unsigned *doubled = buffer.contents;
    printf("kernel ran: %u %u %u %u, working set %llu bytes\n", doubled[0], doubled[1], doubled[2], doubled[3],
           (unsigned long long)device.recommendedMaxWorkingSetSize);
    return doubled[3] == 8 ? 0 : 4;
}

int main(void) {
    @autoreleasepool {
        id<MTLDevice> device = MTLCreateSystemDefaultDevice();
        NSArray<id<MTLDevice>> *all = MTLCopyAllDevices();
        printf("default device %s, %lu devices in all\n", device.name.UTF8String ?: "nil", (unsigned long)all.count);
        if (!device) device = all.firstObject;
        return device ? run(device) : 2;
    }
}
