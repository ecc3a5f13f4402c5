
/*
 * The commands on the window of a key's rate.
 */


#ifndef _CTL_RATE_H_INCLUDED_
#define _CTL_RATE_H_INCLUDED_


#include "ctl.h"
#include "rc.h"


/* each is the command "rate ..." of its name, and says what goes wrong */

rc_t rate_show_handler(const ctl_t *ctl);
rc_t rate_reset_handler(const ctl_t *ctl);


#endif /* _CTL_RATE_H_INCLUDED_ */
