
/*
 * Owns every use of jansson.  Stateless: a document is parsed, looked at and
 * freed within one call.  The size of what comes here has been bounded by
 * the caller, for parsing takes many times a document's size in memory.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <jansson.h>

#include "ngx_convotic_json.h"


/*
 * Integers are read as reals, for jansson refuses those beyond 63 bits and
 * nothing is computed with them.  A duplicate name could be read as one value
 * here and as another by the client.
 */

#define NGX_CONVOTIC_JSON_FLAGS                                               \
    (JSON_DECODE_INT_AS_REAL|JSON_REJECT_DUPLICATES|JSON_ALLOW_NUL)

/* of an upstream's message that is passed on */
#define NGX_CONVOTIC_JSON_MESSAGE_MAX  1024


static ngx_int_t ngx_convotic_json_copy(ngx_pool_t *pool, json_t *string,
    ngx_str_t *value);


const char *
ngx_convotic_json_judge(ngx_str_t *body, ngx_int_t *limit)
{
    double        value;
    json_t       *root, *number;
    const char   *err;
    json_error_t  error;

    *limit = -1;

    root = json_loadb((char *) body->data, body->len,
                      NGX_CONVOTIC_JSON_FLAGS, &error);
    if (root == NULL) {
        return "it is not JSON";
    }

    err = NULL;
    number = json_object_get(root, "limit");

    if (!json_is_object(root)) {
        err = "it is not a JSON object";

    } else if (!json_is_array(json_object_get(root, "contacts"))) {
        err = "it has no array \"contacts\"";

    } else if (!json_is_number(json_object_get(root, "total"))) {
        err = "it has no number \"total\"";

    } else if (!json_is_number(number)) {
        err = "it has no number \"limit\"";

    } else {
        value = json_number_value(number);

        if (value >= 0 && value <= 1e6
            && value == (double) (ngx_int_t) value)
        {
            *limit = (ngx_int_t) value;
        }
    }

    json_decref(root);

    return err;
}


ngx_int_t
ngx_convotic_json_judge_error(ngx_pool_t *pool, ngx_str_t *body,
    ngx_str_t *code, ngx_str_t *message)
{
    json_t       *root, *error, *c, *m;
    ngx_int_t     rc;
    json_error_t  unused;

    root = json_loadb((char *) body->data, body->len,
                      NGX_CONVOTIC_JSON_FLAGS, &unused);
    if (root == NULL) {
        return NGX_DECLINED;
    }

    error = json_object_get(root, "error");
    c = json_object_get(error, "code");
    m = json_object_get(error, "message");

    rc = NGX_DECLINED;

    if (json_is_string(c) && json_is_string(m)
        && json_string_length(m) > 0
        && json_string_length(m) <= NGX_CONVOTIC_JSON_MESSAGE_MAX)
    {
        rc = ngx_convotic_json_copy(pool, c, code);

        if (rc == NGX_OK) {
            rc = ngx_convotic_json_copy(pool, m, message);
        }
    }

    json_decref(root);

    return rc;
}


ngx_int_t
ngx_convotic_json_error(ngx_pool_t *pool, const char *code,
    ngx_str_t *message, ngx_str_t *body)
{
    size_t   n;
    json_t  *root;

    root = json_pack("{s:{s:s,s:s%}}", "error", "code", code, "message",
                     (char *) message->data, message->len);
    if (root == NULL) {
        return NGX_ERROR;
    }

    n = json_dumpb(root, NULL, 0, JSON_COMPACT);

    body->data = n ? ngx_pnalloc(pool, n) : NULL;

    if (body->data) {
        body->len = json_dumpb(root, (char *) body->data, n, JSON_COMPACT);
    }

    json_decref(root);

    return body->data ? NGX_OK : NGX_ERROR;
}


static ngx_int_t
ngx_convotic_json_copy(ngx_pool_t *pool, json_t *string, ngx_str_t *value)
{
    value->len = json_string_length(string);

    value->data = ngx_pnalloc(pool, value->len + 1);
    if (value->data == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(value->data, json_string_value(string), value->len);
    value->data[value->len] = '\0';

    return NGX_OK;
}
