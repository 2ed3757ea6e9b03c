#ifndef JEXT4_CFUSESHIMS_H
#define JEXT4_CFUSESHIMS_H
#include "../../CFuse3/CFuse3.h"
#endif
