/* runtime/load/message.h - a request as bytes, an answer's message as numbers. */
#ifndef RUNTIME_LOAD_MESSAGE_H
#define RUNTIME_LOAD_MESSAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/bytes.h"

typedef struct rt_load_request {
    const char *lora;    /* "": base */
    const char *session; /* names the conversation to routers */
    const uint32_t *ids; /* [count] */
    size_t count;
    uint32_t output_len;
    bool wants_ids; /* of the answer */
} rt_load_request;

typedef struct rt_load_news {
    uint32_t tokens;
    const uint32_t *ids; /* [ids_count]; valid until rt_load_news_free() */
    size_t ids_count;
    bool is_last, is_whole; /* whole: the last, and not of an aborted request */
    void *message;
} rt_load_news;

/* Appends; greedy, end of text ignored. Errors: memory, told by out->failed. */
void rt_load_request_write(const rt_load_request *r, rt_bytes *out);
/* False: it is no such message. */
bool rt_load_news_read(const uint8_t *message, size_t bytes, rt_load_news *out);
void rt_load_news_free(rt_load_news *n);

#endif
