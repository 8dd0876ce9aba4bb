/* grpc.reflection, v1 and v1alpha: the same messages under two names.
 *
 * The schema is the descriptor set that protoc wrote when this was built; its bytes are in the program. */
#include <stdlib.h>

#include "descriptor_index.pb-c.h"
#include "reflection.pb-c.h"
#include "runtime/server/server_internal.h"
#include "runtime/server/wire_text.h"

typedef Grpc__Reflection__V1__ServerReflectionRequest request;
typedef Grpc__Reflection__V1__ServerReflectionResponse response;

__asm__(".section .rodata\n"
        ".balign 16\n"
        "rt__descriptors: .incbin \"" RT_DESCRIPTOR_SET "\"\n"
        "rt__descriptors_end: .byte 0\n"
        ".previous\n");
extern const uint8_t rt__descriptors[], rt__descriptors_end[];

enum { FILES_MAX = 16, SERVICES_MAX = 32 };

/* ---- the schema, looked at anew each time: it is small, and nobody asks often ---- */

typedef struct schema {
    Mica__DescriptorSet *set;
    Mica__DescriptorFile *files[FILES_MAX];
    size_t count;
} schema;

static bool open_schema(schema *s)
{
    *s = (schema){0};
    s->set =
        mica__descriptor_set__unpack(NULL, (size_t)(rt__descriptors_end - rt__descriptors), rt__descriptors);
    for (; s->set && s->count < s->set->n_file; s->count++) {
        const ProtobufCBinaryData *bytes = &s->set->file[s->count];
        RC_ASSERT(s->count < FILES_MAX);
        s->files[s->count] = mica__descriptor_file__unpack(NULL, bytes->len, bytes->data);
        if (!s->files[s->count]) return false;
    }
    return s->set != NULL;
}

static void close_schema(schema *s)
{
    for (size_t i = 0; i < s->count; i++)
        if (s->files[i]) mica__descriptor_file__free_unpacked(s->files[i], NULL);
    if (s->set) mica__descriptor_set__free_unpacked(s->set, NULL);
}

static bool equal(const ProtobufCBinaryData *a, const ProtobufCBinaryData *b)
{
    return a->len == b->len && !memcmp(a->data, b->data, a->len);
}

/* Takes `name` and what follows it, which must be the end or a dot, off the front of `symbol`. */
static bool take_name(ProtobufCBinaryData *symbol, const ProtobufCBinaryData *name)
{
    if (symbol->len < name->len || memcmp(symbol->data, name->data, name->len)) return false;
    if (symbol->len > name->len && symbol->data[name->len] != '.') return false;
    size_t taken = name->len + (symbol->len > name->len);
    symbol->data += taken;
    symbol->len -= taken;
    return true;
}

static bool names_any(const ProtobufCBinaryData *symbol, Mica__DescriptorNamed **list, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        ProtobufCBinaryData rest = *symbol;
        if (take_name(&rest, &list[i]->name)) return true; /* nested names are their file's, too */
    }
    return false;
}

static bool defines(const Mica__DescriptorFile *f, ProtobufCBinaryData symbol)
{
    if (!take_name(&symbol, &f->package) || !symbol.len) return false;
    if (names_any(&symbol, f->message_type, f->n_message_type)) return true;
    if (names_any(&symbol, f->enum_type, f->n_enum_type)) return true;
    for (size_t i = 0; i < f->n_service; i++) {
        ProtobufCBinaryData rest = symbol;
        if (!take_name(&rest, &f->service[i]->name)) continue;
        if (!rest.len || names_any(&rest, f->service[i]->method, f->service[i]->n_method)) return true;
    }
    return false;
}

/* ---- answers ---- */

typedef struct answer {
    response r;
    Grpc__Reflection__V1__FileDescriptorResponse files;
    Grpc__Reflection__V1__ListServiceResponse services;
    Grpc__Reflection__V1__ErrorResponse error;
    ProtobufCBinaryData file_bytes[FILES_MAX];
    Grpc__Reflection__V1__ServiceResponse service[SERVICES_MAX], *service_list[SERVICES_MAX];
    char names[SERVICES_MAX][96];
} answer;

static void answer_error(answer *a, rc_code code, const char *text)
{
    grpc__reflection__v1__error_response__init(&a->error);
    a->error.error_code = (int32_t)code;
    a->error.error_message = rt__wire_text_of(text);
    a->r.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
    a->r.error_response = &a->error;
}

static void add_file(answer *a, const schema *s, size_t index)
{
    const ProtobufCBinaryData *bytes = &s->set->file[index];
    for (size_t i = 0; i < a->files.n_file_descriptor_proto; i++)
        if (a->file_bytes[i].data == bytes->data) return;
    a->file_bytes[a->files.n_file_descriptor_proto++] = *bytes;
    for (size_t d = 0; d < s->files[index]->n_dependency; d++)
        for (size_t i = 0; i < s->count; i++)
            if (equal(&s->files[i]->name, &s->files[index]->dependency[d])) add_file(a, s, i);
}

/* The file and all that it imports. */
static void answer_file(answer *a, const schema *s, size_t index)
{
    grpc__reflection__v1__file_descriptor_response__init(&a->files);
    a->files.file_descriptor_proto = a->file_bytes;
    add_file(a, s, index);
    a->r.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
    a->r.file_descriptor_response = &a->files;
}

static void answer_services(answer *a, const schema *s)
{
    grpc__reflection__v1__list_service_response__init(&a->services);
    a->services.service = a->service_list;
    for (size_t i = 0; i < s->count; i++)
        for (size_t k = 0; k < s->files[i]->n_service; k++) {
            const ProtobufCBinaryData *package = &s->files[i]->package,
                                      *name = &s->files[i]->service[k]->name;
            size_t at = a->services.n_service++;
            RC_ASSERT(at < SERVICES_MAX);
            snprintf(a->names[at], sizeof a->names[at], "%.*s.%.*s", (int)package->len, (char *)package->data,
                     (int)name->len, (char *)name->data);
            grpc__reflection__v1__service_response__init(&a->service[at]);
            a->service[at].name = rt__wire_text_of(a->names[at]);
            a->service_list[at] = &a->service[at];
        }
    a->r.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
    a->r.list_services_response = &a->services;
}

static void look_up(answer *a, const schema *s, const request *q)
{
    switch (q->message_request_case) {
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
        answer_services(a, s);
        return;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
        for (size_t i = 0; i < s->count; i++)
            if (equal(&s->files[i]->name, &q->file_by_filename)) {
                answer_file(a, s, i);
                return;
            }
        answer_error(a, RC_NOT_FOUND, "no such file");
        return;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
        for (size_t i = 0; i < s->count; i++)
            if (defines(s->files[i], q->file_containing_symbol)) {
                answer_file(a, s, i);
                return;
            }
        answer_error(a, RC_NOT_FOUND, "no such symbol");
        return;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_EXTENSION:
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE:
        answer_error(a, RC_NOT_FOUND, "the schema has no extensions");
        return;
    default:
        answer_error(a, RC_INVALID_ARGUMENT, "message_request is missing");
    }
}

/* ---- the call: one question, one answer, and so on; each is read when the last is written ---- */

static rc_code write_answer(rpc_call *c, const request *q)
{
    schema s;
    answer *a = calloc(1, sizeof *a);
    bool ok = open_schema(&s) && a;
    if (ok) {
        grpc__reflection__v1__server_reflection_response__init(&a->r);
        a->r.valid_host = q->host;
        a->r.original_request = (request *)q;
        look_up(a, &s, q);
        size_t bytes = grpc__reflection__v1__server_reflection_response__get_packed_size(&a->r);
        uint8_t *packed = malloc(bytes + 1);
        ok = packed != NULL;
        if (ok) {
            grpc__reflection__v1__server_reflection_response__pack(&a->r, packed);
            rpc_call_write(c, packed, bytes);
        }
        free(packed);
    }
    close_schema(&s);
    free(a);
    return ok ? RC_OK : RC_RESOURCE_EXHAUSTED;
}

void rt__reflection_start(rpc_call *c, void *server)
{
    (void)server;
    rpc_call_read(c);
}

void rt__reflection_received(rpc_call *c, const uint8_t *message, size_t bytes)
{
    if (!message) {
        rpc_call_finish(c, RC_OK, NULL, NULL, 0);
        return;
    }
    request *q = grpc__reflection__v1__server_reflection_request__unpack(NULL, bytes, message);
    if (!q)
        rpc_call_finish(c, RC_INVALID_ARGUMENT, "the message is no ServerReflectionRequest", NULL, 0);
    else if (write_answer(c, q) != RC_OK)
        rpc_call_finish(c, RC_RESOURCE_EXHAUSTED, "no memory for the answer", NULL, 0);
    if (q) grpc__reflection__v1__server_reflection_request__free_unpacked(q, NULL);
}

void rt__reflection_written(rpc_call *c)
{
    rpc_call_read(c);
}
