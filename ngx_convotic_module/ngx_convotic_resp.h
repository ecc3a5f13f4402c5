
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
};


/* max: the bytes of one reply, beyond which the stream is refused */
ngx_convotic_resp_reader_t *ngx_convotic_resp_create(size_t max,
    ngx_log_t *log);
void ngx_convotic_resp_destroy(ngx_convotic_resp_reader_t *reader);

/* NGX_OK, or NGX_ERROR: the stream is beyond repair, close the connection */
ngx_int_t ngx_convotic_resp_feed(ngx_convotic_resp_reader_t *reader,
    u_char *data, size_t len);

/*
 * NGX_OK and a reply that the caller frees, NGX_AGAIN, or NGX_ERROR.
 * To be called until NGX_AGAIN after each feed.
 */
ngx_int_t ngx_convotic_resp_next(ngx_convotic_resp_reader_t *reader,
    ngx_convotic_resp_t **reply);
void ngx_convotic_resp_free(ngx_convotic_resp_t *reply);

/*
 * The command's bytes, in memory that ngx_convotic_resp_release() frees;
 * argc is at most NGX_CONVOTIC_RESP_ARGS.  NGX_ERROR: no memory.
 */
#define NGX_CONVOTIC_RESP_ARGS  8
ngx_int_t ngx_convotic_resp_encode(ngx_uint_t argc, ngx_str_t *argv,
    ngx_str_t *command);
void ngx_convotic_resp_release(ngx_str_t *command);


#endif /* _NGX_CONVOTIC_RESP_H_INCLUDED_ */
