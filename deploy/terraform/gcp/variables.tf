variable "name" {
  type    = string
  default = "acordo"
}

variable "project" {
  type = string
}

variable "region" {
  type        = string
  description = "where the data lies: southamerica-east1, us-central1, europe-west3, …"
}

variable "cidr" {
  type    = string
  default = "10.0.0.0/16"
}

variable "master_cidr" {
  type    = string
  default = "172.16.0.0/28"
}

variable "operators" {
  type        = list(string)
  description = "addresses from which Kubernetes is operated"
}

variable "machine" {
  type    = string
  default = "e2-standard-2"
}

variable "shared_store" {
  type        = bool
  description = "false: each member keeps its own store, and there is no database"
  default     = false
}

variable "store_machine" {
  type    = string
  default = "db-custom-2-8192"
}

variable "store_gb" {
  type    = number
  default = 50
}

variable "cache" {
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
