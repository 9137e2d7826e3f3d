/* An allocator to be preloaded, as hosts have them: what it gives is full of rubbish, and so is what was given back. */
#include <malloc.h>
#include <stddef.h>
#include <string.h>
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t), *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static void *rubbish(void *memory, size_t size) { return memory ? memset(memory, 0xA5, size) : NULL; }
void *malloc(size_t size) { return rubbish(__libc_malloc(size), size); }
void *calloc(size_t count, size_t size) { return __libc_calloc(count, size); }
void *memalign(size_t alignment, size_t size) { return rubbish(__libc_memalign(alignment, size), size); }
void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }
int posix_memalign(void **place, size_t alignment, size_t size) { return (*place = memalign(alignment, size)) ? 0 : 12; }
void free(void *memory) {
    if (memory) memset(memory, 0xDE, malloc_usable_size(memory));
    __libc_free(memory);
}
void *realloc(void *memory, size_t size) {
    /* Always another place. */
    void *other = malloc(size);
    if (other && memory) {
        const size_t old = malloc_usable_size(memory);
        memcpy(other, memory, old < size ? old : size);
        free(memory);
    }
    return other;
}
