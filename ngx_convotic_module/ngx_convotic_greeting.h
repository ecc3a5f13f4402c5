
/*
 * What a connection to Redis says before it may carry a request's commands,
 * and whether the replies make it one to be believed.
 */


#ifndef _NGX_CONVOTIC_GREETING_H_INCLUDED_
#define _NGX_CONVOTIC_GREETING_H_INCLUDED_


#include "ngx_convotic_conf.h"
#include "ngx_convotic_resp.h"
#include "ngx_convotic_url.h"


/* in the order in which they are sent, all at once */

typedef enum {
    NGX_CONVOTIC_GREETING_AUTH = 0,
    NGX_CONVOTIC_GREETING_SELECT,
    NGX_CONVOTIC_GREETING_NAME,
    NGX_CONVOTIC_GREETING_INFO,
    NGX_CONVOTIC_GREETING_ROLE,      /* also asked later, again and again */
    NGX_CONVOTIC_GREETING_PING,      /* the last: its reply is the end */
    NGX_CONVOTIC_GREETING_STEPS
} ngx_convotic_greeting_e;


typedef struct {
    ngx_convotic_url_t   *url;
    ngx_uint_t            master;    /* it must be one, and tell its run_id */
    const char           *suffix;    /* of the connection's name; short */
} ngx_convotic_greeting_t;


/* argv may point into text */

typedef struct {
    ngx_uint_t            argc;
    ngx_str_t             argv[3];
    u_char                text[64];
} ngx_convotic_greeting_command_t;


/* argc is 0 if the server is not to be told this */
void ngx_convotic_greeting_command(ngx_convotic_greeting_t *greeting,
    ngx_convotic_greeting_e step, ngx_convotic_greeting_command_t *command);

/*
 * The reply to that command.  If the result is not NGX_OK the connection must
 * not be used, and why is set; NGX_ERROR: the reply is an error, or of a wrong
 * type, which should be logged; NGX_DECLINED: it says that the server is a
 * wrong one.
 *
 * run_id is set by that of INFO; its data has NGX_CONVOTIC_RUN_ID_LEN bytes.
 */
ngx_int_t ngx_convotic_greeting_judge(ngx_convotic_greeting_t *greeting,
    ngx_convotic_greeting_e step, ngx_convotic_resp_t *reply,
    ngx_str_t *run_id, const char **why);


#endif /* _NGX_CONVOTIC_GREETING_H_INCLUDED_ */
