
/*
 * Owns the words of the greeting, and what is expected in return.  It sends
 * nothing and keeps nothing: the connection does.
 *
 * No command of a request's is sent behind it before all of it has succeeded:
 * a database that could not be selected would be another one.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_greeting.h"


static void ngx_convotic_greeting_auth(ngx_convotic_url_t *url,
    ngx_convotic_greeting_command_t *command);
static void ngx_convotic_greeting_select(ngx_convotic_url_t *url,
    ngx_convotic_greeting_command_t *command);
static void ngx_convotic_greeting_name(const char *suffix,
    ngx_convotic_greeting_command_t *command);
static ngx_int_t ngx_convotic_greeting_judge_info(ngx_convotic_resp_t *reply,
    ngx_str_t *run_id, const char **why);
static ngx_int_t ngx_convotic_greeting_judge_role(ngx_convotic_resp_t *reply,
    const char **why);


void
ngx_convotic_greeting_command(ngx_convotic_greeting_t *greeting,
    ngx_convotic_greeting_e step, ngx_convotic_greeting_command_t *command)
{
    command->argc = 0;

    switch (step) {

    case NGX_CONVOTIC_GREETING_AUTH:
        ngx_convotic_greeting_auth(greeting->url, command);
        break;

    case NGX_CONVOTIC_GREETING_SELECT:
        ngx_convotic_greeting_select(greeting->url, command);
        break;

    case NGX_CONVOTIC_GREETING_NAME:
        ngx_convotic_greeting_name(greeting->suffix, command);
        break;

    case NGX_CONVOTIC_GREETING_INFO:
        if (greeting->master) {
            ngx_str_set(&command->argv[0], "INFO");
            ngx_str_set(&command->argv[1], "server");
            command->argc = 2;
        }
        break;

    case NGX_CONVOTIC_GREETING_ROLE:
        command->argc = 1;

        if (greeting->master) {
            ngx_str_set(&command->argv[0], "ROLE");
            break;
        }

        /* its reply tells, at least, that the server is alive */

        ngx_str_set(&command->argv[0], "PING");
        break;

    default: /* NGX_CONVOTIC_GREETING_PING */
        ngx_str_set(&command->argv[0], "PING");
        command->argc = 1;
        break;
    }
}


static void
ngx_convotic_greeting_auth(ngx_convotic_url_t *url,
    ngx_convotic_greeting_command_t *command)
{
    if (url->user.len == 0 && url->password.len == 0) {
        return;
    }

    ngx_str_set(&command->argv[0], "AUTH");
    command->argc = 1;

    if (url->user.len) {
        command->argv[command->argc++] = url->user;
    }

    command->argv[command->argc++] = url->password;
}


static void
ngx_convotic_greeting_select(ngx_convotic_url_t *url,
    ngx_convotic_greeting_command_t *command)
{
    if (url->db == 0) {
        return;
    }

    ngx_str_set(&command->argv[0], "SELECT");

    command->argv[1].data = command->text;
    command->argv[1].len = ngx_sprintf(command->text, "%ui", url->db)
                           - command->text;
    command->argc = 2;
}


static void
ngx_convotic_greeting_name(const char *suffix,
    ngx_convotic_greeting_command_t *command)
{
    u_char  *last;

    ngx_str_set(&command->argv[0], "CLIENT");
    ngx_str_set(&command->argv[1], "SETNAME");

    last = ngx_snprintf(command->text, sizeof(command->text),
                        "ngx_convotic-%P%s", ngx_pid, suffix);

    command->argv[2].data = command->text;
    command->argv[2].len = last - command->text;
    command->argc = 3;
}


ngx_int_t
ngx_convotic_greeting_judge(ngx_convotic_greeting_t *greeting,
    ngx_convotic_greeting_e step, ngx_convotic_resp_t *reply,
    ngx_str_t *run_id, const char **why)
{
    switch (step) {

    case NGX_CONVOTIC_GREETING_AUTH:
    case NGX_CONVOTIC_GREETING_SELECT:
        *why = "it refused the greeting";
        return (reply->type == NGX_CONVOTIC_RESP_STATUS) ? NGX_OK : NGX_ERROR;

    case NGX_CONVOTIC_GREETING_NAME:

        /*
         * A name is a courtesy: a refusal does no harm.  But a server that
         * has no room says so in place of the first reply, and closes.
         */

        *why = "it refused the greeting";
        return (reply->type == NGX_CONVOTIC_RESP_ERROR
                && ngx_strncmp(reply->str.data, "ERR max number", 14) == 0)
               ? NGX_ERROR : NGX_OK;

    case NGX_CONVOTIC_GREETING_INFO:
        return ngx_convotic_greeting_judge_info(reply, run_id, why);

    case NGX_CONVOTIC_GREETING_ROLE:
        return greeting->master ? ngx_convotic_greeting_judge_role(reply, why)
                                : NGX_OK;

    default: /* NGX_CONVOTIC_GREETING_PING */
        *why = "it refused the greeting";
        return (reply->type == NGX_CONVOTIC_RESP_ERROR) ? NGX_ERROR : NGX_OK;
    }
}


static ngx_int_t
ngx_convotic_greeting_judge_info(ngx_convotic_resp_t *reply,
    ngx_str_t *run_id, const char **why)
{
    u_char  *p, *last;

    *why = "it does not tell its run_id";
    run_id->len = 0;

    if (reply->type != NGX_CONVOTIC_RESP_STRING) {
        return NGX_ERROR;
    }

    p = ngx_strnstr(reply->str.data, "\nrun_id:", reply->str.len);

    if (p == NULL) {
        return NGX_DECLINED;
    }

    p += sizeof("\nrun_id:") - 1;
    last = reply->str.data + reply->str.len;

    while (p < last && run_id->len < NGX_CONVOTIC_RUN_ID_LEN
           && ((*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'z')))
    {
        run_id->data[run_id->len++] = *p++;
    }

    return run_id->len ? NGX_OK : NGX_DECLINED;
}


static ngx_int_t
ngx_convotic_greeting_judge_role(ngx_convotic_resp_t *reply, const char **why)
{
    ngx_convotic_resp_t  *role;

    if (reply->type != NGX_CONVOTIC_RESP_ARRAY || reply->nelts == 0) {
        *why = "it does not tell its role";
        return NGX_ERROR;
    }

    *why = "it is not a master";

    role = reply->elts[0];

    if (role->type != NGX_CONVOTIC_RESP_STRING
        || role->str.len != 6
        || ngx_strncmp(role->str.data, "master", 6) != 0)
    {
        return NGX_DECLINED;
    }

    return NGX_OK;
}
