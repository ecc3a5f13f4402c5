
/*
 * The exit codes of convoticctl, which its functions return too.
 */


#ifndef _CTL_RC_H_INCLUDED_
#define _CTL_RC_H_INCLUDED_


typedef enum {
    RC_OK = 0,
    RC_FAILED = 1,
    RC_USAGE = 2,
    RC_UNACKED = 3,             /* done, but no replica has it */
    RC_NOT_FOUND = 4            /* no such key */
} rc_t;


#endif /* _CTL_RC_H_INCLUDED_ */
