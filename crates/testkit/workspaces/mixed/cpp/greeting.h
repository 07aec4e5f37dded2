#ifndef CPP_GREETING_H_
#define CPP_GREETING_H_

#include <string>

std::string Greeting(const std::string& name);

#endif
