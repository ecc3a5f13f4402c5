
/*
 * RESP2 replies and commands.  The only file that includes hiredis; no I/O.
 */


#ifndef _NGX_CONVOTIC_RESP_H_INCLUDED_
#define _NGX_CONVOTIC_RESP_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/* as many bytes as a reader should be given at a time */
#define NGX_CONVOTIC_RESP_FEED  8192


typedef enum {
    NGX_CONVOTIC_RESP_STRING,
    NGX_CONVOTIC_RESP_STATUS,
    NGX_CONVOTIC_RESP_ERROR,
    NGX_CONVOTIC_RESP_INTEGER,
    NGX_CONVOTIC_RESP_NIL,
    NGX_CONVOTIC_RESP_ARRAY
} ngx_convotic_resp_type_e;


typedef struct ngx_convotic_resp_s         ngx_convotic_resp_t;
typedef struct ngx_convotic_resp_reader_s  ngx_convotic_resp_reader_t;

struct ngx_convotic_resp_s {
    ngx_convotic_resp_type_e    type;
    int64_t                     integer;
    ngx_str_t                   str;     /* STRING, STATUS, ERROR */
    size_t                      nelts;   /* ARRAY */
    ngx_convotic_resp_t       **elts;    /* none is NULL in a whole reply */
    unsigned                    oversize:1;  /* ARRAY: read, but not kept */
};


/*
 * max: the bytes of one reply, beyond which the stream is refused.  An array
 * of too many elements is refused as well, or, with skip, delivered with none
 * of them and marked as oversize, wherever in a reply it stands.
 */
ngx_convotic_resp_reader_t *ngx_convotic_resp_create(size_t max,
    ngx_uint_t skip, ngx_log_t *log);
void ngx_convotic_resp_destroy(ngx_convotic_resp_reader_t *reader);

/* NGX_OK, or NGX_ERROR: no memory, close the connection */
ngx_int_t ngx_convotic_resp_feed(ngx_convotic_resp_reader_t *reader,
    u_char *data, size_t len);

/*
 * NGX_OK and a reply that the caller frees, or NGX_AGAIN.  NGX_ERROR: the
 * stream is beyond repair; NGX_ABORT: no memory.  Close the connection then.
 * To be called until NGX_AGAIN after each feed.
 */
ngx_int_t ngx_convotic_resp_next(ngx_convotic_resp_reader_t *reader,
    ngx_convotic_resp_t **reply);
void ngx_convotic_resp_free(ngx_convotic_resp_t *reply);

/* the bytes of a command at most, and the command; returns where it ends */
size_t ngx_convotic_resp_length(ngx_uint_t argc, ngx_str_t *argv);
u_char *ngx_convotic_resp_encode(u_char *p, ngx_uint_t argc,
    ngx_str_t *argv);


#endif /* _NGX_CONVOTIC_RESP_H_INCLUDED_ */
