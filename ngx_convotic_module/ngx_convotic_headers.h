
/*
 * Lists of headers.  A walk, of either direction: those that have been removed
 * (their hash is 0) are walked over too, for it means so in headers_out, not
 * in headers_in.  And one more at the end, of a response.
 */


#ifndef _NGX_CONVOTIC_HEADERS_H_INCLUDED_
#define _NGX_CONVOTIC_HEADERS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


/* the list may grow meanwhile, and the header given last may be changed */

typedef struct {
    ngx_list_part_t  *part;
    ngx_uint_t        i;         /* the next one within the part */
} ngx_convotic_headers_t;


static ngx_inline void
ngx_convotic_headers_start(ngx_convotic_headers_t *it, ngx_list_t *list)
{
    it->part = &list->part;
    it->i = 0;
}


/* NULL: that was all */

static ngx_inline ngx_table_elt_t *
ngx_convotic_headers_next(ngx_convotic_headers_t *it)
{
    ngx_table_elt_t  *header;

    while (it->i >= it->part->nelts) {

        if (it->part->next == NULL) {
            return NULL;
        }

        it->part = it->part->next;
        it->i = 0;
    }

    header = it->part->elts;

    return &header[it->i++];
}


/* whether it bears the name, in whatever case */

static ngx_inline ngx_uint_t
ngx_convotic_headers_is(ngx_table_elt_t *header, ngx_str_t *name)
{
    /* most of those of one length differ in the first letter */

    return header->key.len == name->len
           && ((header->key.data[0] ^ name->data[0]) & ~0x20) == 0
           && ngx_strncasecmp(header->key.data, name->data, name->len) == 0;
}


/* header: where it stands, may be NULL; NGX_ERROR: no memory */

static ngx_inline ngx_int_t
ngx_convotic_headers_push(ngx_http_request_t *r, ngx_str_t *name,
    ngx_str_t *value, ngx_table_elt_t **header)
{
    ngx_table_elt_t  *h;

    h = ngx_list_push(&r->headers_out.headers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    h->hash = 1;
    h->key = *name;
    h->value = *value;
    h->lowcase_key = NULL;
#if (nginx_version >= 1023000)
    h->next = NULL;
#endif

    if (header) {
        *header = h;
    }

    return NGX_OK;
}


#endif /* _NGX_CONVOTIC_HEADERS_H_INCLUDED_ */
