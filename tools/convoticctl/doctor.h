
/*
 * The check of both Redis servers.
 */


#ifndef _CTL_DOCTOR_H_INCLUDED_
#define _CTL_DOCTOR_H_INCLUDED_


#include "ctl.h"
#include "rc.h"


/* the command "doctor"; RC_FAILED: a check failed */
rc_t doctor_handler(const ctl_t *ctl);


#endif /* _CTL_DOCTOR_H_INCLUDED_ */
