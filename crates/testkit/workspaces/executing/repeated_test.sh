#!/bin/bash
echo "the repeated test runs"
