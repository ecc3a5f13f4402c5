
/*
 * Owns every use of zlib, and Accept-Encoding.  A compressor belongs to the
 * configuration's pool, its zlib state to the worker: it is made at the
 * first use there and only reset for the next one.  A member is made in one
 * call, whole or not at all.
 */



#include "ngx_convotic_conf.h"
#include "ngx_convotic_headers.h"
#include "ngx_convotic_gzip.h"

#include <zlib.h>


#define NGX_CONVOTIC_GZIP_WINDOW  (MAX_WBITS + 16)    /* + 16: as gzip */
#define NGX_CONVOTIC_GZIP_MEMORY  8

/* a weight in thousandths */
#define NGX_CONVOTIC_GZIP_UNSAID  -1


struct ngx_convotic_gzip_s {
    z_stream   stream;           /* its state is NULL before the first use */
    ngx_int_t  level;            /* of that state */
};


typedef struct {
    ngx_int_t  gzip;
    ngx_int_t  identity;
    ngx_int_t  other;            /* "*" */
} ngx_convotic_gzip_weights_t;


static void ngx_convotic_gzip_weigh(ngx_convotic_gzip_weights_t *weights,
    ngx_str_t *value);
static ngx_int_t *ngx_convotic_gzip_coding(
    ngx_convotic_gzip_weights_t *weights, u_char *p, size_t len);
static ngx_int_t ngx_convotic_gzip_weight(u_char *p, u_char *last);
static u_char *ngx_convotic_gzip_blank(u_char *p, u_char *last);
static ngx_int_t ngx_convotic_gzip_prepare(ngx_convotic_gzip_t *gzip,
    ngx_int_t level);
static void ngx_convotic_gzip_cleanup(void *data);


ngx_uint_t
ngx_convotic_gzip_accepted(ngx_http_request_t *r)
{
    ngx_table_elt_t              *header;
    ngx_convotic_headers_t        it;
    ngx_convotic_gzip_weights_t   weights;

    static ngx_str_t  name = ngx_string("Accept-Encoding");

    weights.gzip = NGX_CONVOTIC_GZIP_UNSAID;
    weights.identity = NGX_CONVOTIC_GZIP_UNSAID;
    weights.other = NGX_CONVOTIC_GZIP_UNSAID;

    ngx_convotic_headers_start(&it, &r->headers_in.headers);

    while ((header = ngx_convotic_headers_next(&it)) != NULL) {

        if (ngx_convotic_headers_is(header, &name)) {
            ngx_convotic_gzip_weigh(&weights, &header->value);
        }
    }

    if (weights.gzip == NGX_CONVOTIC_GZIP_UNSAID) {
        weights.gzip = weights.other;
    }

    if (weights.identity == NGX_CONVOTIC_GZIP_UNSAID) {
        weights.identity = weights.other;
    }

    return weights.gzip > 0 && weights.gzip >= weights.identity;
}


/*
 * #( codings [ weight ] ).  A coding that is named twice has the lesser
 * weight, so that "gzip;q=0" stands; an element that is malformed, none.
 */

static void
ngx_convotic_gzip_weigh(ngx_convotic_gzip_weights_t *weights,
    ngx_str_t *value)
{
    u_char     *p, *start, *end, *last;
    ngx_int_t   weight, *coding;

    last = value->data + value->len;

    for (p = value->data; p < last; p = end + 1) {

        p = ngx_convotic_gzip_blank(p, last);
        start = p;

        while (p < last && *p != ',' && *p != ';' && *p != ' ' && *p != '\t') {
            p++;
        }

        for (end = p; end < last && *end != ','; end++) { /* void */ }

        coding = ngx_convotic_gzip_coding(weights, start, p - start);

        if (coding == NULL) {
            continue;
        }

        weight = ngx_convotic_gzip_weight(p, end);

        if (weight != NGX_CONVOTIC_GZIP_UNSAID
            && (*coding == NGX_CONVOTIC_GZIP_UNSAID || weight < *coding))
        {
            *coding = weight;
        }
    }
}


static ngx_int_t *
ngx_convotic_gzip_coding(ngx_convotic_gzip_weights_t *weights, u_char *p,
    size_t len)
{
    switch (len) {

    case 1:
        return *p == '*' ? &weights->other : NULL;

    case 4:
        return ngx_strncasecmp(p, (u_char *) "gzip", 4) == 0
               ? &weights->gzip : NULL;

    case 6:
        /* the same coding (RFC 9110, 8.4.1.3) */
        return ngx_strncasecmp(p, (u_char *) "x-gzip", 6) == 0
               ? &weights->gzip : NULL;

    case 8:
        return ngx_strncasecmp(p, (u_char *) "identity", 8) == 0
               ? &weights->identity : NULL;

    default:
        return NULL;
    }
}


/*
 * Of what follows a coding, OWS or OWS ";" OWS "q=" qvalue OWS
 * (RFC 9110, 12.4.2): 0 to 1000, or NGX_CONVOTIC_GZIP_UNSAID if it is
 * malformed.
 */

static ngx_int_t
ngx_convotic_gzip_weight(u_char *p, u_char *last)
{
    ngx_int_t   weight, unit;

    p = ngx_convotic_gzip_blank(p, last);

    if (p == last) {
        return 1000;
    }

    if (*p != ';') {
        return NGX_CONVOTIC_GZIP_UNSAID;
    }

    p = ngx_convotic_gzip_blank(p + 1, last);

    if (last - p < 3
        || (p[0] != 'q' && p[0] != 'Q')
        || p[1] != '='
        || (p[2] != '0' && p[2] != '1'))
    {
        return NGX_CONVOTIC_GZIP_UNSAID;
    }

    weight = (p[2] - '0') * 1000;
    p += 3;

    if (p < last && *p == '.') {
        p++;

        for (unit = 100; unit && p < last && *p >= '0' && *p <= '9'; p++) {
            weight += (*p - '0') * unit;
            unit /= 10;
        }
    }

    if (weight > 1000 || ngx_convotic_gzip_blank(p, last) != last) {
        return NGX_CONVOTIC_GZIP_UNSAID;
    }

    return weight;
}


static u_char *
ngx_convotic_gzip_blank(u_char *p, u_char *last)
{
    while (p < last && (*p == ' ' || *p == '\t')) {
        p++;
    }

    return p;
}


ngx_convotic_gzip_t *
ngx_convotic_gzip_create(ngx_pool_t *pool)
{
    ngx_pool_cleanup_t   *cln;
    ngx_convotic_gzip_t  *gzip;

    cln = ngx_pool_cleanup_add(pool, sizeof(ngx_convotic_gzip_t));
    if (cln == NULL) {
        return NULL;
    }

    gzip = cln->data;
    ngx_memzero(gzip, sizeof(ngx_convotic_gzip_t));

    cln->handler = ngx_convotic_gzip_cleanup;

    return gzip;
}


ngx_int_t
ngx_convotic_gzip_deflate(ngx_convotic_gzip_t *gzip, ngx_int_t level,
    ngx_str_t *in, u_char *out, size_t *len)
{
    z_stream  *stream;

    /* zlib counts in unsigned int */

    if (in->len > NGX_MAX_INT32_VALUE || *len > NGX_MAX_INT32_VALUE) {
        return NGX_DECLINED;
    }

    if (ngx_convotic_gzip_prepare(gzip, level) != NGX_OK) {
        return NGX_ERROR;
    }

    stream = &gzip->stream;

    stream->next_in = in->data;
    stream->avail_in = in->len;
    stream->next_out = out;
    stream->avail_out = *len;

    if (deflate(stream, Z_FINISH) != Z_STREAM_END) {
        return NGX_DECLINED;
    }

    *len = stream->total_out;

    return NGX_OK;
}


static ngx_int_t
ngx_convotic_gzip_prepare(ngx_convotic_gzip_t *gzip, ngx_int_t level)
{
    z_stream  *stream;

    stream = &gzip->stream;

    if (stream->state && gzip->level == level) {
        return deflateReset(stream) == Z_OK ? NGX_OK : NGX_ERROR;
    }

    /*
     * Not deflateParams(): it may start a member, under the old level, and
     * the bytes would depend on what was made before.
     */

    if (stream->state) {
        (void) deflateEnd(stream);
    }

    ngx_memzero(stream, sizeof(z_stream));

    if (deflateInit2(stream, level, Z_DEFLATED, NGX_CONVOTIC_GZIP_WINDOW,
                     NGX_CONVOTIC_GZIP_MEMORY, Z_DEFAULT_STRATEGY)
        != Z_OK)
    {
        stream->state = NULL;
        return NGX_ERROR;
    }

    gzip->level = level;

    return NGX_OK;
}


static void
ngx_convotic_gzip_cleanup(void *data)
{
    ngx_convotic_gzip_t  *gzip = data;

    if (gzip->stream.state) {
        (void) deflateEnd(&gzip->stream);
    }
}
