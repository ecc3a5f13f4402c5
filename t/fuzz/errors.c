
/*
 * Errors.  The first line of an input is a code and its status, the rest is a
 * message, and a body that an upstream sent.
 *
 * The body of an error, whatever its message, is JSON that reads back as the
 * same; a message that is no text makes none.  Of an upstream's body nothing
 * is taken unless jansson, asked by itself, finds the documented shape in it,
 * and what is taken can be sent.
 */


#include "fuzz.h"

#include <jansson.h>

#include "ngx_convotic_conf.h"
#include "ngx_convotic_error.h"
#include "ngx_convotic_json.h"


#define FUZZ_ERRORS_MESSAGE  1024

#define FUZZ_ERRORS_FLAGS                                                     \
    (JSON_DECODE_INT_AS_REAL|JSON_REJECT_DUPLICATES|JSON_ALLOW_NUL)


static void fuzz_errors_message(ngx_pool_t *pool, const char *code,
    ngx_str_t *message);
static void fuzz_errors_adopt(ngx_pool_t *pool, ngx_uint_t status,
    ngx_str_t *body);
static ngx_uint_t fuzz_errors_read(ngx_pool_t *pool, ngx_str_t *body,
    ngx_uint_t strict, ngx_str_t *code, ngx_str_t *message);


static const char  *fuzz_errors_codes[] = {
    "UNAUTHORIZED",
    "INVALID_REQUEST",
    "NOT_FOUND",
    "RATE_LIMITED",
    "INTERNAL_ERROR"
};


void
fuzz_init(ngx_pool_t *pool)
{
    json_object_seed(1);
    json_set_alloc_funcs(fuzz_malloc, fuzz_free);
}


void
fuzz_one(ngx_pool_t *pool, fuzz_input_t *in)
{
    u_char      which;
    ngx_str_t   text;
    ngx_uint_t  status;

    which = fuzz_byte(in);
    status = 400 + fuzz_number(in, 199);
    (void) fuzz_byte(in);

    text = fuzz_copy(pool, in->pos, in->last - in->pos);

    fuzz_errors_message(pool, fuzz_errors_codes[which % 5], &text);
    fuzz_errors_adopt(pool, status, &text);
}


static void
fuzz_errors_message(ngx_pool_t *pool, const char *code, ngx_str_t *message)
{
    ngx_int_t              rc;
    ngx_str_t              body, c, m;
    ngx_convotic_answer_t  answer;

    rc = ngx_convotic_json_error(pool, code, message, &body);

    if (!fuzz_utf8(message)) {
        fuzz_assert(rc == NGX_ERROR, "a body of what is no text");
        return;
    }

    fuzz_assert(rc == NGX_OK, "a text without a body");
    fuzz_assert(fuzz_errors_read(pool, &body, 1, &c, &m),
                "the body of an error is not in the documented shape");
    fuzz_assert(fuzz_is(&c, code), "another code");
    fuzz_assert(fuzz_equal(&m, message), "another message");

    /* as if another gateway had sent it */

    ngx_memzero(&answer, sizeof(ngx_convotic_answer_t));
    ngx_convotic_error_set(&answer, 599);
    ngx_convotic_error_adopt(pool, &answer, &body);

    if (message->len && message->len <= FUZZ_ERRORS_MESSAGE) {
        fuzz_assert(strcmp(answer.code, code) == 0
                    && fuzz_equal(&answer.message, message),
                    "an error in the documented shape is not passed on");
    }
}


static void
fuzz_errors_adopt(ngx_pool_t *pool, ngx_uint_t status, ngx_str_t *body)
{
    ngx_int_t              rc;
    ngx_str_t              code, message, ours, c, m;
    ngx_uint_t             i, shape, known;
    const char            *own;
    ngx_convotic_answer_t  answer;

    ngx_memzero(&answer, sizeof(ngx_convotic_answer_t));
    ngx_convotic_error_set(&answer, status);

    own = answer.code;
    ours = answer.message;

    ngx_convotic_error_adopt(pool, &answer, body);

    fuzz_assert(answer.status == status, "another status");

    shape = fuzz_errors_read(pool, body, 0, &code, &message)
            && message.len && message.len <= FUZZ_ERRORS_MESSAGE;

    known = 0;

    for (i = 0; i < 5; i++) {
        known |= (strcmp(answer.code, fuzz_errors_codes[i]) == 0);
    }

    fuzz_assert(known, "a code that is not documented");

    if (!shape) {
        fuzz_assert(answer.code == own && fuzz_equal(&answer.message, &ours),
                    "taken from what is not in the documented shape");

    } else {
        fuzz_assert(fuzz_equal(&answer.message, &message),
                    "another message than the upstream's");
        fuzz_assert(answer.code == own || fuzz_is(&code, answer.code),
                    "another code than the upstream's");
    }

    rc = ngx_convotic_json_error(pool, answer.code, &answer.message, &c);
    fuzz_assert(rc == NGX_OK, "an error that cannot be sent");
    fuzz_assert(fuzz_errors_read(pool, &c, 1, &code, &m)
                && fuzz_is(&code, answer.code)
                && fuzz_equal(&m, &answer.message),
                "an error that is sent is another");
}


/* strict: and nothing else */

static ngx_uint_t
fuzz_errors_read(ngx_pool_t *pool, ngx_str_t *body, ngx_uint_t strict,
    ngx_str_t *code, ngx_str_t *message)
{
    json_t      *root, *error, *c, *m;
    ngx_uint_t   found;

    root = json_loadb((char *) body->data, body->len, FUZZ_ERRORS_FLAGS,
                      NULL);

    error = json_object_get(root, "error");
    c = json_object_get(error, "code");
    m = json_object_get(error, "message");

    found = json_is_string(c) && json_is_string(m);

    if (found) {
        *code = fuzz_copy(pool, (u_char *) json_string_value(c),
                          json_string_length(c));
        *message = fuzz_copy(pool, (u_char *) json_string_value(m),
                             json_string_length(m));
    }

    if (strict) {
        found = found && json_object_size(root) == 1
                && json_object_size(error) == 2;
    }

    json_decref(root);

    return found;
}
