variable "name" {
  type    = string
  default = "acordo"
}

variable "region" {
  type        = string
  description = "where the data lies: sa-east-1, us-east-1, eu-central-1, …"
}

variable "cidr" {
  type    = string
  default = "10.0.0.0/16"
}

variable "operators" {
  type        = list(string)
  description = "addresses from which Kubernetes is operated"
}

variable "kubernetes_version" {
  type    = string
  default = "1.34"
}

variable "machine" {
  type    = string
  default = "m7g.large"
}

variable "shared_store" {
  type        = bool
  description = "false: each member keeps its own store, and there is no database"
  default     = false
}

variable "store_machine" {
  type    = string
  default = "db.m6g.large"
}

variable "store_gb" {
  type    = number
  default = 50
}

variable "cache" {
  type    = bool
  default = false
}

variable "broker" {
  type    = bool
  default = false
}

variable "backup_bucket" {
  type        = string
  description = "a name that nobody in the world has yet"
}

variable "backup_days" {
  type    = number
  default = 14
}
